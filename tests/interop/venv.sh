# Sourced from the root of the repository: a virtual environment in .venv, which git ignores, with NumPy, autograd and PyTorch. $1 says for whom.
if [[ ! -x .venv/bin/python ]]; then
  python3 -m venv .venv || {
    rm -rf .venv
    echo "$1: python3 made no virtual environment; on Debian: apt-get install python3-venv" >&2
    exit 1
  }
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/interop/requirements.txt
