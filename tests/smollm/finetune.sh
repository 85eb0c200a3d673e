#!/usr/bin/env bash
# Trains SmolLM2 for thirty steps; what is checked stands in finetune.py.
#
# Wants python3 with venv. NumPy and PyTorch go into .venv at the root of the repository, which git
# ignores: some 5 GB, as PyTorch comes with its CUDA libraries.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/interop/venv.sh finetune
cargo build --release --quiet --bin pptop
mkdir -p target/smollm2-package
gguf=$(tests/smollm/gguf.sh target/smollm2-package)
python3 tests/smollm/finetune.py target/release/pptop "$gguf" .venv/bin/python
