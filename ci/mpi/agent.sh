#!/usr/bin/env bash
# What mpirun calls in the place of ssh: agent.sh [FLAG...] ADDRESS COMMAND... runs the command on
# the host that has the address.
set -euo pipefail

while [[ ${1:-} == -* ]]; do
  shift
done
address=$1
shift
exec "$(dirname "$0")/hosts.sh" enter "${address##*.}" sh -c "$*"
