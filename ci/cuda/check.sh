#!/usr/bin/env bash
# Lints the `cuda` feature on a machine without GPU, driver or toolkit: ci/cuda/check.sh [PACKAGE].
#
# The target directory is one of its own, for correctness and not for tidiness: candle's build
# script keeps finished kernels by the hash of their source, whoever compiled them, so a directory
# that has seen the stand-in would hand its empty kernels to a later build with the real compiler.
set -euo pipefail
cd "$(dirname "$0")/../.."

export PATH="$PWD/ci/cuda:$PATH"
export NVCC="$PWD/ci/cuda/nvcc"
export CUDA_COMPUTE_CAP=80
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}/cuda-standin"
# Any of these would lead the build scripts to a toolkit that happens to be installed.
unset CUDA_HOME CUDA_PATH CUDA_ROOT CUDA_TOOLKIT_ROOT_DIR CUDARC_CUDA_VERSION

exec cargo clippy --locked --package "${1:-pptop}" --features cuda --all-targets -- -D warnings
