#!/usr/bin/env bash
# Names in a page must not outlive what they name: check_paths.sh PAGE…
# Each `path/with/a/slash` in backticks has to exist, and so has the target of each relative link,
# with its heading.
# shellcheck disable=SC2016 # the backtick in the pattern is meant
set -euo pipefail
cd "$(dirname "$0")/.."

missing=0

# lacks PAGE WHAT: says that a page names something that is not there.
lacks() {
  echo "check_paths: $1 names '$2', which is not there" >&2
  missing=1
}

# headings PAGE: the anchors of its headings.
headings() {
  sed -n 's/^#\+ //p' "$1" | tr '[:upper:]' '[:lower:]' | sed 's/[^a-z0-9 _-]//g; s/ /-/g'
}

for page in "$@"; do
  while read -r path; do
    [[ -e $path ]] || lacks "$page" "$path"
  done < <(grep -oE '`(\.ci|apps|benches|ci|crates|docs|examples|tests)/[A-Za-z0-9_./-]+`' "$page" | tr -d '`' | sort -u)
  while read -r link; do
    path=$(dirname "$page")/${link%%#*}
    [[ $link != '#'* ]] || path=$page
    if [[ ! -e $path ]]; then
      lacks "$page" "$link"
    elif [[ $link == *'#'* ]] && ! headings "$path" | grep -xF -- "${link#*#}" >/dev/null; then
      lacks "$page" "$link"
    fi
  done < <(grep -oE '\]\([^)]+\)' "$page" | sed 's/^](//; s/)$//' | grep -vE '^[a-z]+:' | sort -u)
done
exit "$missing"
