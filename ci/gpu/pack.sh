#!/usr/bin/env bash
# Builds the cuda tests and packs them, at most 64 MiB, for a GPU machine with neither cargo nor
# network.
# Wants the real toolkit here (no GPU), python3 and xz.
# There: tar xf pptop-gpu.tar.xz && pptop-gpu/run
#
# Tests know the path of the sources they were built from, so `run` puts the pack at that same path,
# through a link, and says so where it can't.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
limit=$((64 << 20))

if ! command -v nvcc >/dev/null || [[ "$(nvcc --version)" == *stand-in* ]]; then
  echo "gpu-pack: a real nvcc has to be on PATH, found: $(command -v nvcc || echo none)" >&2
  exit 2
fi

export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}
export CARGO_PROFILE_DEV_DEBUG=false CARGO_TARGET_DIR="$root/target/cuda"
messages=$CARGO_TARGET_DIR/messages.json
mkdir -p "$CARGO_TARGET_DIR"
cargo test --locked --workspace --features pptop/cuda --no-run --message-format=json >"$messages"

pack=$CARGO_TARGET_DIR/pptop-gpu
rm -rf "$pack"
mkdir -p "$pack/tree"
git ls-files -z -- Cargo.toml Cargo.lock .cargo crates apps tests examples benches docs README.md ARCHITECTURE.md justfile .ci \
  LICENSE-APACHE LICENSE-MIT | xargs -0 cp --parents -t "$pack/tree"

# A line a test program: the folder that cargo would start it in, and its path, both below the root.
python3 - "$messages" "$root" >"$pack/tests.list" <<'PYTHON'
import json
import os
import sys

messages, root = sys.argv[1:]
for line in open(messages):
    message = json.loads(line)
    if message.get("reason") != "compiler-artifact" or not message["executable"]:
        continue
    folder = os.path.dirname(message["manifest_path"])
    kind = "test" if message["profile"]["test"] else "program"
    print(kind, os.path.relpath(folder, root), os.path.relpath(message["executable"], root))
PYTHON
while read -r _ _ program; do
  mkdir -p "$pack/tree/$(dirname "$program")"
  strip -o "$pack/tree/$program" "$program"
done <"$pack/tests.list"

# The tests of GPUs open this library, and look for it beside themselves.
strip -o "$pack/tree/${CARGO_TARGET_DIR#"$root/"}/debug/deps/libnvml_stand_in.so" "$CARGO_TARGET_DIR/debug/deps/libnvml_stand_in.so"

cat >"$pack/run" <<RUN
#!/usr/bin/env bash
# Runs the packed tests; ends with the number of failed programs as a line and as its status (0 or
# 1).
set -uo pipefail
root=$root
RUN
cat >>"$pack/run" <<'RUN'
here=$(cd "$(dirname "$0")" && pwd)
if [[ ! -e $root ]]; then
  mkdir -p "$(dirname "$root")" && ln -s "$here/tree" "$root"
fi
if [[ $(readlink -f "$root") != "$here/tree" ]]; then
  echo "run: tests expect their sources at $root, and something else is there" >&2
  exit 2
fi
export RAYON_NUM_THREADS=1
nvidia-smi --query-gpu=index,name,uuid,driver_version,memory.total,compute_cap --format=csv
failed=0 ran=0
while read -r kind folder program; do
  [[ $kind == test ]] || continue
  ran=$((ran + 1))
  echo "== $program"
  (cd "$root/$folder" && CARGO_MANIFEST_DIR=$root/$folder "$root/$program" "$@") || failed=$((failed + 1))
done <"$here/tests.list"
while read -r kind _ program; do
  [[ $kind == program && $program == */pptop ]] && "$root/$program" devices
done <"$here/tests.list"
echo "run: $ran test programs, $failed failed"
((failed == 0))
RUN
chmod +x "$pack/run"

archive=$CARGO_TARGET_DIR/pptop-gpu.tar.xz
tar -C "$CARGO_TARGET_DIR" -cf - pptop-gpu | xz -T0 -6 --memlimit-compress=4GiB >"$archive"
size=$(stat -c %s "$archive")
echo "gpu-pack: $archive, $size bytes, $(grep -c ^test "$pack/tests.list") test programs"
if ((size > limit)); then
  echo "gpu-pack: $size bytes are more than the $limit that a pack may have" >&2
  exit 1
fi
