#!/usr/bin/env bash
# Runs the whole test suite with --features cuda, and reports what it ran on:
# ci/gpu/run.sh [TEST FILTER].
# Wants a driver, NVIDIA's toolkit (13.0 or older: cudarc has to know it) and cargo.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! command -v nvcc >/dev/null; then
  echo "gpu: no nvcc on PATH: install the CUDA toolkit, or try \`just cuda-check\`, which needs none" >&2
  exit 2
fi
if [[ "$(nvcc --version)" == *stand-in* ]]; then
  echo "gpu: $(command -v nvcc) is the stand-in that compiles no kernel: put the real nvcc first on PATH" >&2
  exit 2
fi
if ! nvidia-smi --query-gpu=name --format=csv,noheader >/dev/null 2>&1; then
  echo "gpu: nvidia-smi sees no device: a driver has to be loaded; \`just gpu-pack\` packs for another machine" >&2
  exit 2
fi

# 80 runs on every later generation; 90 would be for one alone.
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}/cuda"
mkdir -p "$CARGO_TARGET_DIR"
report=$CARGO_TARGET_DIR/report.txt

{
  echo "commit $(git rev-parse --short HEAD)$(git diff --quiet HEAD || echo ' with changes')"
  rustc --version
  nvcc --version | grep release
  nvidia-smi --query-gpu=index,name,uuid,driver_version,memory.total,compute_cap --format=csv
} | tee "$report"

status=0
cargo test --workspace --features pptop/cuda --no-fail-fast -- "$@" 2>&1 | tee -a "$report" || status=$?
cargo run --quiet --features pptop/cuda --bin pptop -- devices 2>&1 | tee -a "$report" || status=$?

echo "gpu: $(grep -c '^test result: ok' "$report" || true) test programs passed," \
  "$(grep -c '^test result: FAILED' "$report" || true) failed; the report is $report" | tee -a "$report"
exit "$status"
