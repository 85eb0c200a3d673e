#!/usr/bin/env bash
# Installs NVIDIA's compiler for CUDA 13.0 from PyPI (100 MB) into a folder, once, and prints the
# path of nvcc: ci/gpu/toolkit.sh FOLDER. No GPU and no driver are needed.
#
# 13.0, because cudarc knows no later version, and later ones write PTX that needs a newer driver.
set -euo pipefail

folder=$1
nvcc=$folder/nvidia/cu13/bin/nvcc
if [[ ! -x $nvcc ]]; then
  python3 -m pip install --quiet --no-deps --no-compile --target "$folder" \
    nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 \
    nvidia-cuda-cccl==13.0.85 nvidia-cuda-runtime==13.0.96 >&2
fi
[[ -x $nvcc ]] || { echo "toolkit: no nvcc at $nvcc" >&2; exit 1; }
echo "$nvcc"
