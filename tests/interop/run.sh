#!/usr/bin/env bash
# What other programs make of ours, and ours of theirs.
#
# 1. Step 1 of seed-mlp and gpt, which pptop dumps, is recomputed: check_dump.py has derivatives written by hand and checks the update as
#    well, recompute.py uses automatic differentiation.
# 2. PyTorch's pipeline runtime runs the plan of every schedule but Chimera, which it has no form for, and finds the gradients of the
#    unpartitioned model; the plans of PyTorch's own schedules train in pptop with the same bits as one device (torch_plans.py).
# 3. TensorBoard, promtool, a renderer of SVG and the rules of the trace format read what pptop exports of a run (exports.sh, which
#    also runs alone and without PyTorch).
# 4. The safetensors package and PyTorch's HuggingFaceStorageReader read the weights of a checkpoint (check_checkpoint.py).
#
# 5. Real PyTorch jobs are recorded by pptop-log without a change (watch.sh, which also runs alone).
#
# Wants python3 with venv. NumPy, autograd and PyTorch go into .venv at the root of the repository, which git ignores: some 5 GB, as
# PyTorch comes with its CUDA libraries.
set -euo pipefail
cd "$(dirname "$0")/../.."

source tests/interop/venv.sh interop
.venv/bin/python tests/interop/self_test.py >/dev/null

dumps=$(mktemp -d)
trap 'rm -rf "$dumps"' EXIT
export PPTOP_STATE_DIR=$dumps/state PPTOP_DEVICE=cpu

# One step of JOB FLAGS, dumped and checked.
step() {
  local name=$1
  shift
  cargo run --release --quiet --bin pptop -- train --headless --steps 1 --seed 7 "$@" --dump-step "$dumps/$name.safetensors"
  .venv/bin/python tests/interop/check_dump.py "$dumps/$name.safetensors"
  .venv/bin/python tests/interop/recompute.py "$dumps/$name.safetensors"
}

# Two plans a model: several stages, chunks and replicas have to leave no trace in the gradients.
step seed-mlp-1f1b --model seed-mlp --dropout 0 --schedule 1f1b --pp 4 --batch-size 64 --micro-batches 8
step seed-mlp-dp2 --model seed-mlp --dropout 0 --schedule gpipe --pp 2 --dp 2 --batch-size 64 --micro-batches 4
gpt=(--model gpt --layers 4 --width 64 --heads 4 --context 32 --batch-size 16 --micro-batches 4)
step gpt-interleaved "${gpt[@]}" --schedule interleaved-1f1b --pp 2 --virtual-stages 2
step gpt-gpipe "${gpt[@]}" --schedule gpipe --pp 3 --clip-norm 0.5

# Models of the Llama family: tied and not, with a gradient of uneven documents.
mkdir "$dumps/llama"
llama() {
  local name=$1
  shift
  cargo run --release --quiet --bin pptop -- train --headless --steps 1 --seed 7 "$@" --dump-step "$dumps/$name.safetensors"
  .venv/bin/python tests/interop/llama.py gradients "$dumps/$name.safetensors"
}
small=(--model llama --layers 4 --width 64 --ffn 96 --heads 4 --kv-heads 2 --context 32 --batch-size 16 --micro-batches 4)
llama llama "${small[@]}" --schedule 1f1b --pp 2 --save "$dumps/llama/model.safetensors"
llama llama-tied "${small[@]}" --tied --schedule zb-v --pp 2
cp crates/models/testdata/byte_tokenizer.json "$dumps/llama/tokenizer.json"
for i in {1..40}; do echo "{\"text\": \"$(printf 'a b%.0s' $(seq "$((i % 9 + 1))"))\"}"; done >"$dumps/llama/text.jsonl"
llama llama-packed --model "$dumps/llama" --data "$dumps/llama/text.jsonl" --batch-size 4 --micro-batches 4 --pp 2
ours=$(cargo run --release --quiet --bin pptop -- evaluate "$dumps/llama" --data "$dumps/llama/text.jsonl" --json)
.venv/bin/python tests/interop/llama.py loss "$dumps/llama" "$dumps/llama/text.jsonl" "$ours"

# Every plan of ours in PyTorch's runtime.
pptop() { cargo run --release --quiet --bin pptop -- "$@"; }
mkdir "$dumps/ours" "$dumps/theirs"
for schedule in naive gpipe 1f1b interleaved-1f1b looped-bfs zb-h1 zb-h2 interleaved-zb zb-v v-half v-min dualpipe-v hanayo zb-auto auto; do
  for size in "2 8" "4 8"; do
    read -r p m <<<"$size"
    pptop schedule export "$schedule" --pp "$p" --micro-batches "$m" --format csv -o "$dumps/ours/$schedule-p$p-m$m.csv"
  done
done
.venv/bin/python tests/interop/torch_plans.py run "$dumps/ours"

# And every plan of PyTorch's in ours: the losses and weights of one device, to the last bit.
.venv/bin/python tests/interop/torch_plans.py write "$dumps/theirs"
# trained SCHEDULE FLAG…: the loss bits of all steps and the hash of the weights.
trained() {
  pptop train --headless --json --model seed-mlp --batch-size 32 --micro-batches 8 --steps 3 --seed 7 --schedule "$@" |
    grep -oE '"(loss_bits|weights_hash)":"[0-9a-f]+"'
}
wanted=$(trained naive --pp 1)
for plan in "$dumps"/theirs/torch-*.csv; do
  name=$(basename "$plan" .csv)
  if [[ $(trained "$plan") != "$wanted" ]]; then
    echo "WRONG $name: other bits than one device" >&2
    exit 1
  fi
  echo "ok $name: the bits of one device"
done

# The weights of a checkpoint: those of --save, whatever the number of stages.
for layout in "1f1b --pp 4" "zb-v --pp 2"; do
  # shellcheck disable=SC2086 # a schedule and its flags
  pptop train --headless "${gpt[@]}" --steps 2 --schedule $layout --checkpoint-at-end --checkpoint-dir "$dumps/checkpoints" \
    --save "$dumps/saved.safetensors" --force
  .venv/bin/python tests/interop/check_checkpoint.py "$dumps/checkpoints/step-00000002" "$dumps/saved.safetensors"
  rm -r "$dumps/checkpoints"
done

tests/interop/exports.sh
tests/interop/watch.sh
