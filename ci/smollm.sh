#!/usr/bin/env bash
# A real language model: ci/smollm.sh PPTOP. What is checked stands in tests/smollm/run.py, and what it
# wants in tests/smollm/gguf.sh.
set -euo pipefail
pptop=$(realpath "$1")
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

python3 tests/smollm/run.py "$pptop" "$(tests/smollm/gguf.sh "$scratch")"
