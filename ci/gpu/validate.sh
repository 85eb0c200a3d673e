#!/usr/bin/env bash
# Tries pptop on this machine's GPU, in at most ten minutes: ci/gpu/validate.sh [--out FOLDER].
#
# It runs from a pack (ci/gpu/pack.sh), which has the programs in bin. Wants python3 and an NVIDIA
# driver of 580 or newer; PyTorch brings the CUDA libraries. Everything that it finds is in FOLDER
# (validate-results by default), and summary.txt there says how each phase ended.
#
# With --rehearse it runs through all phases on a machine without a GPU, against stand-ins.
set -euo pipefail
exec python3 "$(dirname "$0")/validate.py" "$@"
