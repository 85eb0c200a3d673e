#!/usr/bin/env python3
"""Hostile and odd invocations of `pptop`: run.py PROGRAM [--only REGEX] [--list] [--at-once N].

Needs Python 3.9 and nothing else. Prints one line a failure and a summary by number; exits 1 if
anything is wrong.
"""

import argparse
import collections
import pathlib
import re
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import harness  # noqa: E402
from cases import all_cases  # noqa: E402
from world import World  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", help="the pptop to try: a release build")
    parser.add_argument("--only", default="", help="cases whose number and name match")
    parser.add_argument("--list", action="store_true", help="name the cases and run none")
    parser.add_argument("--at-once", type=int, default=2, help="cases that run at the same time")
    args = parser.parse_args()
    cases = [c for c in all_cases() if re.search(args.only, f"{c.number} {c.name}")]
    names = collections.Counter((case.number, case.name) for case in cases)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        sys.exit(f"hostile: two cases have one name: {twice}")
    if args.list:
        for case in cases:
            print(case.number, case.name)
        return
    program = str(pathlib.Path(args.program).resolve())
    began = time.monotonic()
    bad, slowest, largest = 0, (0.0, ""), (0, "")
    numbers = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="pptop-hostile-") as root:
        world = World(program, root)
        for case, outcome, wrong in harness.run_all(cases, program, world, root, args.at_once):
            numbers[case.number] += 1
            if outcome is not None:
                slowest = max(slowest, (outcome.seconds, case.name))
                largest = max(largest, (outcome.rss, case.name))
            for sentence in wrong:
                print(f"hostile: {case.number} {case.name}: {sentence}")
            if wrong:
                bad += 1
                if outcome is not None:
                    excerpt = outcome.text.strip()[-600:]
                    print("    " + repr(excerpt))
    print("hostile: cases by number:", "  ".join(f"{n} {c}" for n, c in sorted(numbers.items())))
    print(f"hostile: slowest {slowest[0]:.1f} s ({slowest[1]}), "
          f"largest {largest[0] / 2**20:.0f} MiB ({largest[1]})")
    print(f"hostile: {len(cases) - bad} passed, {bad} failed in {time.monotonic() - began:.0f} s")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
