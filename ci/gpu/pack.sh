#!/usr/bin/env bash
# Packs what a machine with an NVIDIA GPU needs to try pptop, at most 50 MiB: ci/gpu/pack.sh.
#
# Wants cargo, a C compiler, python3 with pip, and xz; neither a GPU nor NVIDIA's toolkit, whose
# compiler comes from PyPI. The programs open the driver and CUDA's libraries when they need them, so
# they start everywhere.
#
# There: tar xf pptop-gpu.tar.xz && pptop-gpu/ci/gpu/validate.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
limit=$((50 << 20))

# The compiler first: a machine that can't have it should not build for minutes.
real=$(ci/gpu/toolkit.sh "${CARGO_TARGET_DIR:-$root/target}/cuda-toolkit")
source ci/cuda/env.sh
export PPTOP_REAL_NVCC=$real
CUDA_HOME=$(dirname "$(dirname "$real")")
export CUDA_HOME

cargo build --locked --release --workspace --features pptop/cuda,pp-gpu-tests/cuda,pp-benches/cuda \
  --bin pptop --bin gpu-tests --bin plain_candle

pack=$CARGO_TARGET_DIR/pptop-gpu
rm -rf "$pack"
mkdir -p "$pack/bin"
for program in pptop gpu-tests plain_candle; do
  ci/gpu/check_ptx.sh "$CARGO_TARGET_DIR/release/$program"
  strip -o "$pack/bin/$program" "$CARGO_TARGET_DIR/release/$program"
done
echo "$(git rev-parse HEAD)$(git diff --quiet HEAD || echo ' with changes')" >"$pack/commit"
git ls-files -z -- ci/gpu benches/peers LICENSE-APACHE LICENSE-MIT | xargs -0 cp --parents -t "$pack"
[[ -x $pack/ci/gpu/validate.sh && -f $pack/benches/peers/model.py ]] ||
  { echo "gpu-pack: the pack lacks files that git does not know yet" >&2; exit 1; }

archive=$CARGO_TARGET_DIR/pptop-gpu.tar.xz
tar -C "$CARGO_TARGET_DIR" -cf - pptop-gpu | xz -T0 -6 --memlimit-compress=4GiB >"$archive"
size=$(stat -c %s "$archive")
echo "gpu-pack: $archive, $size bytes"
if ((size > limit)); then
  echo "gpu-pack: $size bytes are more than the $limit that a pack may have" >&2
  exit 1
fi
