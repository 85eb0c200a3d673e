#!/usr/bin/env bash
# Runs the whole test suite with --features cuda, and the tests of the GPU on it, and reports what
# they ran on: ci/gpu/run.sh [TEST FILTER].
# Wants a driver, NVIDIA's toolkit 13.0 and cargo.
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
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}/cuda-gpu"
mkdir -p "$CARGO_TARGET_DIR"
report=$CARGO_TARGET_DIR/report.txt
features=pptop/cuda,pp-gpu-tests/cuda,pp-benches/cuda

{
  echo "commit $(git rev-parse --short HEAD)$(git diff --quiet HEAD || echo ' with changes')"
  rustc --version
  nvcc --version | grep release
  nvidia-smi --query-gpu=index,name,uuid,driver_version,memory.total,compute_cap --format=csv
} | tee "$report"

status=0
# The suite is about the processor: what it compares must not move to a GPU by accident.
CUDA_VISIBLE_DEVICES='' PPTOP_DEVICE=cpu \
  cargo test --workspace --features "$features" --no-fail-fast -- "$@" 2>&1 | tee -a "$report" || status=$?
RAYON_NUM_THREADS=1 PPTOP_REQUIRE_GPU=1 \
  cargo run --features "$features" --bin gpu-tests 2>&1 | tee -a "$report" || status=$?
cargo run --quiet --features "$features" --bin pptop -- devices 2>&1 | tee -a "$report" || status=$?

echo "gpu: $(grep -c '^test result: ok' "$report" || true) test programs passed," \
  "$(grep -c '^test result: FAILED' "$report" || true) failed; the report is $report" | tee -a "$report"
exit "$status"
