#!/usr/bin/env bash
# Outside programs recompute step 1 of seed-mlp and gpt, which pptop dumps: check_dump.py by derivatives written by hand, the update
# included, and recompute.py by automatic differentiation.
# Wants python3 with venv; NumPy and autograd go into .venv at the root of the repository, which git ignores.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [[ ! -x .venv/bin/python ]]; then
  python3 -m venv .venv || {
    rm -rf .venv
    echo "interop: python3 made no virtual environment; on Debian: apt-get install python3-venv" >&2
    exit 1
  }
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/interop/requirements.txt
.venv/bin/python tests/interop/self_test.py >/dev/null

dumps=$(mktemp -d)
trap 'rm -rf "$dumps"' EXIT
export PPTOP_STATE_DIR=$dumps/state

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
