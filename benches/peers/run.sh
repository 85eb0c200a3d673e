#!/usr/bin/env bash
# pptop, PyTorch and plain candle on the same jobs, in turns; ARGS: the number of rounds, and jobs (all).
#
# Wants python3 with venv. PyTorch goes into .venv at the root of the repository, which git ignores: some 5 GB, as it comes with its CUDA
# libraries; `just interop` uses the same folder.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/interop/venv.sh bench-peers
# The same selection of packages as everywhere else: one build of candle.
cargo build --release --quiet -p pp-benches --bins
exec cargo run --release --quiet -p pp-benches --bin peers -- "$@"
