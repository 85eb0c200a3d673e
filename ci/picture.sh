#!/usr/bin/env bash
# Puts the program's own screen into README.md, between the two markers:
# ci/picture.sh [SECONDS] [TRAIN FLAGS…].
# The default run is started in a tmux window of 100 x 30 and captured after SECONDS (60); then it
# is stopped.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
shift || true
cargo build --release --bin pptop
state=$(mktemp -d)
session="pptop-picture-$$"
trap 'tmux kill-session -t "$session" 2>/dev/null || true; rm -rf "$state"' EXIT

tmux new-session -d -s "$session" -x 100 -y 30 "PPTOP_STATE_DIR=$state target/release/pptop train $*"
sleep "$seconds"
tmux capture-pane -p -t "$session" >"$state/picture"
# The question opens on "cancel" and hears nothing at first; "s" chooses to stop the run, and Enter
# does it.
tmux send-keys -t "$session" q
sleep 1
tmux send-keys -t "$session" s
tmux send-keys -t "$session" Enter
grep -q 'pptop' "$state/picture" || { echo "picture: nothing was drawn" >&2; exit 1; }

awk -v picture="$state/picture" '
  /<!-- picture -->/ { print; print "```text"; while ((getline line < picture) > 0) print line; print "```"; skip = 1; next }
  /<!-- picture ends -->/ { skip = 0 }
  !skip { print }
' README.md >"$state/readme"
cat "$state/readme" >README.md
