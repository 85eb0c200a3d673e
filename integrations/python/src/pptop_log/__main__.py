"""``python -m pptop_log [--dir FOLDER] [-m] PROGRAM ARGS…``: runs a job and records it."""

from __future__ import annotations

import argparse
import os
import runpy
import sys

USAGE = "python -m pptop_log [--dir FOLDER] [--] [-m MODULE | PROGRAM] [ARGS...]"


def main(argv: list[str] | None = None) -> None:
    """Sets the environment, puts the hooks in place and runs the program as ``python`` would."""
    parser = argparse.ArgumentParser(
        prog="python -m pptop_log",
        usage=USAGE,
        description="Runs a Python program and records its pipelines for pptop.",
    )
    parser.add_argument(
        "--dir", help="the folder for the files (default: a new one among the runs of pptop)"
    )
    parser.add_argument("-m", dest="module", metavar="MODULE", help="run a module, as python -m")
    parser.add_argument("program", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    words = args.program[1:] if args.program[:1] == ["--"] else args.program
    module = args.module
    if module is None and words[:1] == ["-m"]:
        module, words = (words[1] if len(words) > 1 else None), words[2:]
        if module is None:
            parser.error("-m needs the name of a module")
    if module is None and not words:
        parser.error("name the program to run, as in: python -m pptop_log train.py")
    if args.dir:
        os.environ["PPTOP_LOG_DIR"] = os.path.abspath(args.dir)
    else:
        os.environ.setdefault("PPTOP_LOG", "1")

    from pptop_log import start

    start.install()
    print(f"pptop-log: recording into {os.environ['PPTOP_LOG_DIR']}", file=sys.stderr)
    if module is not None:
        sys.argv = [module, *words]
        sys.path[0] = os.getcwd()
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path[0] = os.path.dirname(os.path.abspath(words[0]))
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    main()
