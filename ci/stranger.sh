#!/usr/bin/env bash
# Trains and watches a model of one's own in a package that has three of the crates and nothing else
# of the workspace: ci/stranger.sh [PPTOP].
#
# `examples/own_model.rs` is copied into a package outside of the workspace, which has no
# `.cargo/config.toml` of ours. Its program trains without RAYON_NUM_THREADS.
# Meanwhile `pptop attach --once` looks at it, afterwards `pptop replay` plays it.
# What is built is shared with the workspace. PPTOP is target/release/pptop if none is named.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
target=${CARGO_TARGET_DIR:-$root/target}
pptop=${1:-$target/release/pptop}
package=$(mktemp -d)
run=
tmux="tmux -L stranger-$$"
trap '[[ -z $run ]] || kill -KILL "$run" 2>/dev/null || true; $tmux kill-server 2>/dev/null || true; rm -rf "$package"' EXIT

fail() {
  echo "stranger: $1" >&2
  exit 1
}

# version CRATE: what the workspace takes of a crate.
version() {
  sed -n "s/^$1 = \"\(.*\)\"$/\1/p" Cargo.toml
}

mkdir "$package/src"
# As many steps as it takes to be looked at.
sed 's/steps: 2000/steps: 10_000_000/' examples/own_model.rs >"$package/src/main.rs"
grep -q 'steps: 10_000_000' "$package/src/main.rs" || fail "examples/own_model.rs has no 'steps: 2000' any more"
cp Cargo.lock "$package/"
cat >"$package/Cargo.toml" <<EOF
[package]
name = "stranger"
edition = "2024"

[dependencies]
anyhow = "$(version anyhow)"
candle-core = "$(version candle-core)"
pp-nn = { path = "$root/crates/nn" }
pp-partition = { path = "$root/crates/partition" }
pp-train = { path = "$root/crates/train" }

[workspace]
EOF

unset RAYON_NUM_THREADS
export PPTOP_STATE_DIR=$package/state PPTOP_DEVICE=cpu
# The lock is ours: nothing that the workspace has not built is looked for.
(cd "$package" && CARGO_TARGET_DIR=$target cargo build --offline --release)
(cd "$package" && exec "$target/release/stranger") >"$package/lines" 2>&1 &
run=$!

# shown WANTED COMMAND…: waits until the command prints that; at most half a minute.
shown() {
  local wanted=$1 text=
  shift
  for _ in {1..60}; do
    if text=$("$@" 2>&1) && grep -qE "$wanted" <<<"$text"; then
      echo "stranger: $(grep -m 1 -E "$wanted" <<<"$text")"
      return
    fi
    sleep 0.5
  done
  cat "$package/lines" >&2
  fail "'$*' does not show '$wanted': $text"
}

shown 'sine.* step [0-9]{3,}/10000000' "$pptop" attach --once
"$pptop" snapshot --json >"$package/state.json" || fail "pptop snapshot --json ends with $?"
grep -q '"model":"sine"' "$package/state.json" || fail "pptop snapshot --json does not name the model"
kill -TERM "$run"
wait "$run" && fail "a run that is stopped by a signal ends well"
run=
shown 'stopped \(SIGTERM\)' "$pptop" attach --once
# A replay is a screen.
$tmux -f /dev/null new-session -d -x 100 -y 30 "$pptop replay latest --speed 0.1"
shown 'sine.*REPLAY' $tmux capture-pane -p
echo "stranger: trained, attached to and replayed with three crates"
