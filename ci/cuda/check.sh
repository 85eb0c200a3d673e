#!/usr/bin/env bash
# Lints the `cuda` feature on a machine without GPU, driver or toolkit: ci/cuda/check.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
source ci/cuda/env.sh

exec cargo clippy --locked --workspace --features pptop/cuda,pp-gpu-tests/cuda,pp-benches/cuda \
  --lib --bins -- -D warnings
