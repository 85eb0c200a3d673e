#!/usr/bin/env bash
# The package pptop-log: its wheel in a new environment, its tests, types and lints, and the example
# of its README. No framework is installed; `just interop` runs real PyTorch jobs.
#
# Wants python3 with venv, and pip's index for pytest, mypy, ruff and the wheel of Megatron Core.
set -euo pipefail
cd "$(dirname "$0")/../.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

python3 -m venv "$scratch/venv"
python=$scratch/venv/bin/python
pip() { "$python" -m pip --disable-pip-version-check --quiet "$@"; }
pip install ./integrations/python pytest mypy ruff
# The wheel has the file that Python reads when it starts.
"$python" - <<'PY'
import pathlib, pptop_log, sysconfig
site = pathlib.Path(sysconfig.get_paths()["purelib"])
assert (site / "pptop_log.pth").is_file(), "the wheel has no pptop_log.pth"
assert pathlib.Path(pptop_log.__file__).is_relative_to(site)
PY
# It is at work where the variable is set, in an isolated interpreter as well, and nowhere else.
watches='import sys; print(any(type(f).__module__ == "pptop_log.start" for f in sys.meta_path))'
for flags in "" -I; do
  # shellcheck disable=SC2086 # no flag, or one
  [[ $(PPTOP_LOG_DIR=$scratch/run "$python" $flags -c "$watches") == True ]]
  # shellcheck disable=SC2086
  [[ $("$python" $flags -c "$watches") == False ]]
done
# What the hooks wrap, in the package's own sources: 3 MB.
pip download --no-deps --dest "$scratch" megatron-core==0.16.1
"$python" -m zipfile -e "$scratch"/megatron_core-*.whl "$scratch/megatron"
export PPTOP_MEGATRON_SOURCE=$scratch/megatron

cd integrations/python
"$python" -m mypy --cache-dir "$scratch/mypy"
"$python" -m ruff check --cache-dir "$scratch/ruff"
"$python" -m ruff format --check --cache-dir "$scratch/ruff"
# The sources of PyTorch and DeepSpeed, 3 GB with what they need, are looked at by `just interop`.
"$python" -m pytest -q -p no:cacheprovider --deselect tests/test_sources.py
"$python" -m pytest -q -p no:cacheprovider tests/test_sources.py -k megatron
# The example of the README, with what is installed.
awk '/^```python$/ { inside = 1; next } /^```$/ { inside = 0 } inside' README.md >"$scratch/example.py"
cd "$scratch"
"$python" example.py
grep -q '"ev":"rank_step"' run1/rank-0.jsonl
echo "python: the wheel, its tests, types, lints and example"
