"""Compares what the hooks have recorded with the profiler's traces of the same steps.

    check_kineto.py FOLDER TRACES PPTOP

The job has profiled all steps but the first. Both have the same operations in each step, and the same
times: for each rank and kind of operation, the sum of the times within 5 %, and in the middle of all
operations as well.
"""

import collections
import csv
import glob
import io
import json
import os
import statistics
import subprocess
import sys


def hooked(folder):
    """Nanoseconds by step, rank, operation, stage and micro-batch."""
    times = {}
    for path in glob.glob(os.path.join(folder, "rank-*.jsonl")):
        for line in open(path):
            span = json.loads(line)
            if span["ev"] == "span" and span["op"] in "FBIW" and span["step"] > 1:
                key = (span["step"] - 1, span["rank"], span["op"], span["stage"], span["mb"])
                assert key not in times, key
                times[key] = span["dur_ns"]
    return times


def imported(traces, pptop):
    def run(*words):
        return subprocess.run([pptop, *words], check=True, capture_output=True, text=True).stdout

    identity = run("import", "kineto", *traces).split()[0]
    rows = csv.DictReader(io.StringIO(run("export", "csv", identity, "--what", "spans")))
    times = {}
    for row in rows:
        if row["op"] in "FBIW":
            key = (int(row["step"]), int(row["rank"]), row["op"], int(row["stage"]), int(row["mb"]))
            assert key not in times, key
            times[key] = int(row["dur_ns"])
    return times


def main():
    folder, traces, pptop = sys.argv[1:]
    ours = hooked(folder)
    theirs = imported(sorted(glob.glob(os.path.join(traces, "trace-*.json"))), pptop)
    assert ours.keys() == theirs.keys(), sorted(ours.keys() ^ theirs.keys())[:10]
    sums = collections.defaultdict(lambda: [0, 0])
    for key, ns in ours.items():
        # Of what is shorter than 2 ms, such as an input gradient of stage 0, which does nothing, the
        # call itself is a part that the two see differently.
        if ns >= 2e6:
            sums[key[1:3]][0] += ns
            sums[key[1:3]][1] += theirs[key]
    for (rank, op), (hook, trace) in sorted(sums.items()):
        assert abs(trace / hook - 1) <= 0.05, f"rank {rank}, {op}: {hook} and {trace} ns"
    ratios = [theirs[key] / ns for key, ns in ours.items() if ns >= 2e6]
    middle = statistics.median(ratios)
    assert abs(middle - 1) <= 0.05, middle
    print(f"kineto: {len(ours)} operations, times in the middle {middle:.3f} of those of the hooks")


if __name__ == "__main__":
    main()
