#!/usr/bin/env bash
# Names in a page must not outlive what they name: each `path/with/a/slash` in backticks has to exist.
# shellcheck disable=SC2016 # the backtick in the pattern is meant
set -euo pipefail
cd "$(dirname "$0")/.."

missing=0
for page in "$@"; do
  while read -r path; do
    if [[ ! -e $path ]]; then
      echo "check_paths: $page speaks of '$path', which is not there" >&2
      missing=1
    fi
  done < <(grep -oE '`(\.ci|apps|benches|ci|crates|examples|tests)/[A-Za-z0-9_./-]+`' "$page" | tr -d '`' | sort -u)
done
exit "$missing"
