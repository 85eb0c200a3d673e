#!/usr/bin/env bash
# Refuses a program whose CUDA kernels are those of the stand-in compiler: ci/gpu/check_ptx.sh PROGRAM.
# Prints how many modules of kernels it has, and for which GPUs.
set -euo pipefail

program=$1
# PTX is text, and each module names the GPUs that it is for.
targets=$(grep -aoE '^\.target sm_[0-9]+a?' "$program" | sort | uniq -c || true)
if [[ -z $targets ]]; then
  echo "check_ptx: $program has no CUDA kernels: it was built with the stand-in compiler ci/cuda/nvcc" >&2
  exit 1
fi
read -r modules _ generation <<<"$targets"
if (($(wc -l <<<"$targets") > 1)) || ((modules < 8)); then
  echo "check_ptx: $program has some of its kernels only:" $targets >&2
  exit 1
fi
echo "check_ptx: $program has $modules modules of kernels for $generation and later"
