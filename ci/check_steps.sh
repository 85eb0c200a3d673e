#!/usr/bin/env bash
# Reads the lines of `pptop train --headless --json`: check_steps.sh FILE STEPS.
# One hello first, STEPS steps in order with a loss that ends below where it began, and an end of
# code 0 last.
set -euo pipefail
file=$1 steps=$2

awk -v steps="$steps" '
  function number(key,    rest) {
    if (!match($0, "\"" key "\":-?[0-9.]+([eE][-+]?[0-9]+)?[,}]")) return "none"
    rest = substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 4)
    return rest + 0
  }
  function wrong(what) { print "check_steps: line " NR ": " what > "/dev/stderr"; bad = 1; exit 1 }
  NR == 1 && !/"ev":"hello"/ { wrong("the first line is not hello: " $0) }
  /"ev":"step"/ {
    seen++
    if (number("step") != seen) wrong("step " number("step") " where " seen " was due")
    loss = number("loss")
    if (loss == "none") wrong("step " seen " has no finite loss")
    if (seen == 1) first = loss
    printf "step %d loss %s\n", seen, loss
  }
  /"ev":"end"/ { code = number("code"); ended = NR }
  END {
    if (bad) exit 1
    if (seen != steps) wrong((seen + 0) " steps, asked were " steps)
    if (ended != NR) wrong("the last line is not an end")
    if (code != 0) wrong("the end has code " code ", due is 0")
    if (loss >= first) wrong("the loss did not fall: " first " at first, " loss " at last")
  }' "$file"
