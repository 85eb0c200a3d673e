#!/usr/bin/env bash
# pptop, PyTorch and plain candle on the same jobs, in turns; ARGS: the number of rounds.
#
# Wants python3 with venv. PyTorch goes into .venv at the root of the repository, which git ignores: some 5 GB, as it comes with its CUDA
# libraries; `just interop` uses the same folder.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [[ ! -x .venv/bin/python ]]; then
  python3 -m venv .venv || {
    rm -rf .venv
    echo "bench-peers: python3 made no virtual environment; on Debian: apt-get install python3-venv" >&2
    exit 1
  }
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/interop/requirements.txt
# The same selection of packages as everywhere else: one build of candle.
cargo build --release --quiet -p pp-benches --bins
exec cargo run --release --quiet -p pp-benches --bin peers -- "$@"
