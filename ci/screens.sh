#!/usr/bin/env bash
# Draws the screens of docs/screens again: ci/screens.sh [RUN]. Without RUN, 30 steps of gpt are
# trained on four ranks first.
# PPTOP may name a program that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."

program=${PPTOP:-target/release/pptop}
[[ -n ${PPTOP:-} ]] || cargo build --release --bin pptop
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

run=${1:-}
if [[ -z $run ]]; then
  run=$scratch/gpt-four-ranks
  "$program" train --headless --model gpt --pp 4 --steps 30 --run-dir "$run" >"$scratch/lines"
fi

mkdir -p docs/screens
for screen in overview-80x24 overview-160x50 bubble-100x34 timeline-100x34; do
  "$program" snapshot --svg --view "${screen%-*}" --size "${screen##*-}" "$run" >"$scratch/$screen.svg"
done
mv "$scratch"/*.svg docs/screens/
