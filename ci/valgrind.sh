#!/usr/bin/env bash
# Runs the tests of everything with `unsafe` in it under valgrind: an access outside of what was
# allocated, or to what was freed, or a decision on what was never written, is an error. The
# binaries are those that `cargo test --workspace` has built.
#
# Valgrind's processor has AVX2 and no AVX-512, and says so where programs ask (CPUID): the kernels
# take what it has, without help.
set -euo pipefail
cd "$(dirname "$0")/.."

# Proptest's cases take some twenty times as long here. One thread for the kernels, as in
# `.cargo/config.toml`.
export PROPTEST_CASES=${PROPTEST_CASES:-64} RAYON_NUM_THREADS=1

built=$(cargo test --locked --workspace --no-run --message-format=json 2>/dev/null) || {
  echo "valgrind.sh: the tests do not build: cargo test --workspace --no-run" >&2
  exit 1
}

# binary KIND NAME: the test binary of a target.
binary() {
  local found
  found=$(grep -F "\"kind\":[\"$1\"]" <<<"$built" | grep -F "\"name\":\"$2\"" | grep -F '"test":true}' |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
  if [[ ! -x $found ]]; then
    echo "valgrind.sh: cargo named no test binary of the $1 target $2" >&2
    exit 1
  fi
  echo "$found"
}

# checked FOLDER KIND NAME AT-LEAST FILTER…: the tests of a target that the filters name; at least
# so many, or the filters are wrong.
checked() {
  local folder=$1 kind=$2 name=$3 least=$4 binary log n
  shift 4
  binary=$(binary "$kind" "$name")
  log=$(mktemp)
  (
    cd "$folder"
    valgrind --quiet --error-exitcode=99 --errors-for-leak-kinds=none --leak-check=no \
      "$binary" --test-threads=1 "$@"
  ) 2>&1 | tee "$log"
  n=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' "$log")
  rm -f "$log"
  if ((${n:-0} < least)); then
    echo "valgrind.sh: $name ran ${n:-0} tests for the filters '$*', at least $least were expected" >&2
    exit 1
  fi
}

# The border to the `gemm` crate, the kernels on panels, and the allocator.
checked crates/nn lib pp_nn 4 cpu::
checked crates/nn test kernels 2 every_kernel what_is_not_finite
checked crates/nn test absurd_views 6
# Results of products in memory that was not filled before.
checked crates/nn test chains 4
checked crates/nn test counting 7
# Another library's structs, filled through pointers, as NVML fills them.
checked crates/devices test gpus 1 a_healthy_gpu_tells_everything
