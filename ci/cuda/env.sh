# Sourced by the scripts that build the feature `cuda`: candle's build scripts find the compiler
# `ci/cuda/nvcc`, and nothing that happens to be installed. Wants $root, the root of the repository.
#
# The target directory is one of its own, for correctness and not for tidiness: candle's build
# script keeps finished kernels by the hash of their source, whoever compiled them. The debug build
# in it has the empty kernels of the stand-in, the release build those of the real compiler.
# PPTOP_CUDA_TARGET_DIR names another one, for a clone in which no real kernel is ever built: then
# all other crates are built once.
export PATH="$root/ci/cuda:$PATH"
export NVCC="$root/ci/cuda/nvcc"
# Runs on every generation from Ampere on; 90 would be for Hopper alone.
export CUDA_COMPUTE_CAP=80
export CARGO_TARGET_DIR="${PPTOP_CUDA_TARGET_DIR:-${CARGO_TARGET_DIR:-$root/target}/cuda}"
unset CUDA_HOME CUDA_PATH CUDA_ROOT CUDA_TOOLKIT_ROOT_DIR CUDARC_CUDA_VERSION PPTOP_REAL_NVCC
