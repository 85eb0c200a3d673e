#!/usr/bin/env bash
# What other programs make of our exports: TensorBoard's reader, promtool, a renderer of SVG, and the rules of the trace format.
#
# Nothing is trained: the log is one that the tests of pptop have, and a second one with a name and numbers that are hard to write.
# Wants python3 with venv, promtool (Debian: prometheus) and the cairo library (Debian: libcairo2). PPTOP names another pptop than
# the one that cargo builds.
set -euo pipefail
cd "$(dirname "$0")/../.."

command -v promtool >/dev/null || {
  echo "interop: promtool is missing; on Debian: apt-get install prometheus" >&2
  exit 1
}
if [[ ! -x .venv/bin/python ]]; then
  python3 -m venv .venv || {
    rm -rf .venv
    echo "interop: python3 made no virtual environment; on Debian: apt-get install python3-venv" >&2
    exit 1
  }
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/interop/requirements-exports.txt

exports=$(mktemp -d)
trap 'rm -rf "$exports"' EXIT
export PPTOP_STATE_DIR=$exports/state
pptop() {
  if [[ -n ${PPTOP:-} ]]; then "$PPTOP" "$@"; else cargo run --release --quiet --bin pptop -- "$@"; fi
}

cp apps/pptop/tests/fixtures/one_f_one_b_p4_m8.jsonl "$exports/plain.jsonl"
.venv/bin/python tests/interop/check_exports.py make "$exports/plain.jsonl" "$exports/hard.jsonl"
for run in plain hard; do
  log=$exports/$run.jsonl out=$exports/$run
  mkdir "$out" "$out/tensorboard"
  pptop export chrome-trace "$log" -o "$out/trace.json"
  pptop export csv "$log" -o "$out/steps.csv"
  pptop export csv "$log" --what spans -o "$out/spans.csv"
  pptop export tensorboard "$log" -o "$out/tensorboard"
  pptop export prometheus "$log" -o "$out/metrics.txt"
  pptop export svg "$log" -o "$out/last.svg"
  pptop export svg "$log" --steps 1..3 -o "$out/steps.svg"
  promtool check metrics <"$out/metrics.txt"
  echo "ok $run: promtool has nothing to say about $(grep -c '^# TYPE' "$out/metrics.txt") metrics"
  .venv/bin/python tests/interop/check_exports.py check "$log" "$out"
done
