#!/usr/bin/env bash
# Links the feature `cuda` without toolkit and without driver, trains on a stand-in for the driver,
# bounds how often a step calls it, and rehearses what is to be done on a machine with a GPU:
# ci/cuda/stand_in.sh [REFERENCE], where REFERENCE is a pptop without the feature.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
reference=()
(($# == 0)) || reference=(--reference "$(realpath "$1")")
source ci/cuda/env.sh

# Without -p, so that all share one resolution of features and one build of candle.
cargo build --locked --workspace --features pptop/cuda,pp-gpu-tests/cuda,pp-benches/cuda \
  --bin pptop --bin gpu-tests --bin plain_candle
cargo build --locked --package cuda-stand-in --package nvml-stand-in
built=$CARGO_TARGET_DIR/debug

# A program with the empty kernels of the stand-in must not leave this machine.
if ci/gpu/check_ptx.sh "$built/pptop" 2>"$CARGO_TARGET_DIR/refused"; then
  echo "stand_in: check_ptx.sh takes a program without kernels" >&2
  exit 1
fi
grep -F 'stand-in compiler' "$CARGO_TARGET_DIR/refused"
python3 tests/cuda/run.py "$built/pptop" "$built/libcuda_stand_in.so" "${reference[@]}"

# The same script as on a machine with a GPU, with stand-ins for driver and NVML.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/bin" "$scratch/libraries" "$scratch/nvml"
ln -s "$built/pptop" "$built/gpu-tests" "$built/plain_candle" "$scratch/bin"
for name in libcuda.so.1 libcublas.so.13 libcublasLt.so.13 libcurand.so.10 libnvrtc.so.13; do
  ln -s "$built/libcuda_stand_in.so" "$scratch/libraries/$name"
done
cp "$built/libnvml_stand_in.so" "$scratch/nvml/libnvidia-ml.so.1"
printf '%s\n' 'driver = 580.95.05' 'cuda = 13000' 'gpu GPU-01010101-0101-0101-0101-010101010101' \
  'pci = 00000000:41:00.0' 'name = stand-in' 'utilisation = 70' 'total_bytes = 85899345920' \
  'used_bytes = 1073741824' >"$scratch/nvml/nvml.txt"
PPTOP_CUDA_LIB=$scratch/libraries PPTOP_NVML_LIB=$scratch/nvml/libnvidia-ml.so.1 PPTOP_DEVICE='' \
  ci/gpu/validate.sh --rehearse --bin "$scratch/bin" --out "$scratch/results"
for file in summary.txt devices.out gpu-tests.out report.out recorded/events.jsonl \
  overview.svg timeline.svg devices.svg loss.svg bubble.svg log.svg; do
  [[ -s $scratch/results/$file ]] || { echo "stand_in: the rehearsal left no $file" >&2; exit 1; }
done
