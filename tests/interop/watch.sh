#!/usr/bin/env bash
# Real PyTorch jobs, recorded by pptop-log without a change: every schedule class on 2 and 4 processes, a plan of ours from CSV, two
# replicas, stages that sleep, and the profiler beside the hooks. Runs alone, or as a part of run.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/interop/venv.sh watch
.venv/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps ./integrations/python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# What the hooks wrap, in the sources of the frameworks themselves.
.venv/bin/python -m pip install --quiet --disable-pip-version-check pytest
mkdir "$work/deepspeed" "$work/megatron"
DS_BUILD_OPS=0 .venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-binary deepspeed \
  --dest "$work" deepspeed
tar --extract --gzip --file "$work"/deepspeed-*.tar.gz --directory "$work/deepspeed" --strip-components 1
.venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" megatron-core
.venv/bin/python -m zipfile --extract "$work"/megatron_core-*.whl "$work/megatron"
(
  cd integrations/python
  PPTOP_DEEPSPEED_SOURCE=$work/deepspeed PPTOP_MEGATRON_SOURCE=$work/megatron ../../.venv/bin/python -m pytest -q -p no:cacheprovider tests/test_sources.py
)
cargo build --release --quiet --bin pptop
pptop=target/release/pptop
export PPTOP_STATE_DIR=$work/state PPTOP_DEVICE=cpu OMP_NUM_THREADS=1

# job NAME FLAG…: runs a job and checks the recording; flags behind -- are for the check.
job() {
  local name=$1 flags=() checks=()
  shift
  while (($#)) && [[ $1 != -- ]]; do flags+=("$1"); shift; done
  (($#)) && { shift; checks=("$@"); }
  mkdir -p "$work/$name/orders"
  PPTOP_LOG_DIR=$work/$name/run .venv/bin/python tests/interop/torch_job.py --orders "$work/$name/orders" "${flags[@]}"
  .venv/bin/python tests/interop/check_watch.py "$work/$name/run" "$work/$name/orders" "$pptop" "${checks[@]}"
}

for p in 2 4; do
  for schedule in ScheduleGPipe Schedule1F1B ScheduleInterleaved1F1B ScheduleLoopedBFS ScheduleInterleavedZeroBubble ScheduleZBVZeroBubble ScheduleDualPipeV; do
    job "$schedule-$p" --schedule "$schedule" --pp "$p" --micro-batches 8 --steps 4
  done
done
"$pptop" schedule export zb-h1 --pp 2 --micro-batches 8 --format csv -o "$work/plan.csv"
job csv --schedule _PipelineScheduleRuntime --csv "$work/plan.csv" --pp 2 --micro-batches 8 --steps 4
job replicas --schedule Schedule1F1B --pp 2 --dp 2 --micro-batches 8 --steps 4
mkdir -p "$work/torchrun/orders"
PPTOP_LOG_DIR=$work/torchrun/run .venv/bin/torchrun --nproc-per-node 2 tests/interop/torch_job.py --orders "$work/torchrun/orders" \
  --schedule Schedule1F1B --pp 2 --micro-batches 8 --steps 4
.venv/bin/python tests/interop/check_watch.py "$work/torchrun/run" "$work/torchrun/orders" "$pptop"
# Stages that sleep: what is measured is what the formula says. The sleeps are long, because caches are
# cold after a sleep: on a virtual machine with a busy host, an operation took 2 to 7 ms longer than its sleep.
for schedule in ScheduleGPipe Schedule1F1B ScheduleInterleaved1F1B; do
  job "sleep-$schedule" --schedule "$schedule" --pp 2 --micro-batches 8 --steps 6 --sleep-ms 250 -- --theory 0.02
done
# The profiler beside the hooks, for the schedules whose runtime labels its actions; the others are refused.
for schedule in ScheduleInterleaved1F1B ScheduleZBVZeroBubble ScheduleInterleavedZeroBubble; do
  mkdir -p "$work/traces-$schedule"
  job "profiled-$schedule" --schedule "$schedule" --pp 2 --micro-batches 4 --steps 4 --sleep-ms 20 --profile "$work/traces-$schedule"
  .venv/bin/python tests/interop/check_kineto.py "$work/profiled-$schedule/run" "$work/traces-$schedule" "$pptop"
done
for schedule in ScheduleGPipe Schedule1F1B; do
  mkdir -p "$work/traces-$schedule"
  job "profiled-$schedule" --schedule "$schedule" --pp 2 --micro-batches 4 --steps 2 --profile "$work/traces-$schedule"
  if "$pptop" import kineto "$work/traces-$schedule"/*.json 2>"$work/refused"; then exit 1; fi
  grep -o 'its labels are those of ScheduleGPipe\|Schedule1F1B does not' "$work/refused"
done
job sleep-4 --schedule Schedule1F1B --pp 4 --micro-batches 8 --steps 6 --sleep-ms 250 -- --theory 0.02
