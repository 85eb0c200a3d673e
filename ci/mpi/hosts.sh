#!/usr/bin/env bash
# Two hosts on one machine, as two network namespaces with a link between them. Needs root.
#
#   ci/mpi/hosts.sh up          makes them
#   ci/mpi/hosts.sh down        removes them
#   ci/mpi/hosts.sh enter N CMD runs a command on host 1 or 2
#
# PPTOP_HOSTS_CLOCK=SECONDS puts the clock of host 2 ahead by so much.
# PPTOP_HOSTS_HIDE=DIR hides a folder from host 2, which has an empty one there.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
net() { echo "pptop$1"; }

up() {
  local n
  for n in 1 2; do
    ip netns add "$(net $n)"
    ip -n "$(net $n)" link set lo up
  done
  ip link add name veth1 netns "$(net 1)" type veth peer name veth2 netns "$(net 2)"
  for n in 1 2; do
    ip -n "$(net $n)" address add "10.81.0.$n/24" dev "veth$n"
    ip -n "$(net $n)" link set "veth$n" up
  done
}

down() {
  local n
  for n in 1 2; do
    # A launcher's daemon that was cut off from its launcher would stay.
    ip netns pids "$(net $n)" 2>/dev/null | xargs --no-run-if-empty kill -KILL 2>/dev/null || true
    ip netns delete "$(net $n)" 2>/dev/null || true
  done
}

enter() {
  local n=$1 clock=()
  shift
  if [[ $n == 2 && -n ${PPTOP_HOSTS_CLOCK:-} ]]; then
    clock=(--time --monotonic "$PPTOP_HOSTS_CLOCK" --boottime "$PPTOP_HOSTS_CLOCK" --fork --kill-child)
  fi
  local hidden=
  if [[ $n == 2 ]]; then hidden=${PPTOP_HOSTS_HIDE:-}; fi
  exec ip netns exec "$(net "$n")" unshare --uts --mount "${clock[@]}" sh -c '
    hostname "$1"
    if [ -n "$2" ]; then mount -t tmpfs none "$2"; fi
    shift 2
    exec "$@"' sh "host$n" "$hidden" "$@"
}

case ${1:-} in
  up | down) "$1" ;;
  enter) shift && enter "$@" ;;
  # The flags for a launcher on host 1: its processes come to the other host through this script.
  flags)
    echo "--host 10.81.0.1:${2:-2},10.81.0.2:${2:-2} --map-by slot --bind-to none --oversubscribe" \
      "--mca plm_rsh_agent $here/agent.sh --mca oob_tcp_if_include 10.81.0.0/24" \
      "--mca btl_tcp_if_include 10.81.0.0/24 --mca pml ob1 --mca btl tcp,vader,self"
    ;;
  *)
    echo "usage: $0 up|down|enter N COMMAND...|flags [SLOTS]" >&2
    exit 2
    ;;
esac
