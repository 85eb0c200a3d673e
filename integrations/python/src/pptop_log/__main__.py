"""``python -m pptop_log [--dir FOLDER] [-m MODULE | PROGRAM] [ARGS...]``: runs a job, recorded."""

from __future__ import annotations

import os
import runpy
import sys

USAGE = """usage: python -m pptop_log [--dir FOLDER] [-m MODULE | PROGRAM] [ARGS...]

Runs a Python program as python would, and records its pipelines for pptop.

  --dir FOLDER  the folder for the files (default: a new one among the runs of pptop)
  -m MODULE     run a module, as python -m
"""


def main(argv: list[str] | None = None) -> None:
    """Sets the environment, puts the hooks in place and runs the program as ``python`` would."""
    words = list(sys.argv[1:] if argv is None else argv)
    folder = module = None
    # What follows the program is the program's.
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if word in ("-h", "--help"):
            print(USAGE, end="")
            sys.exit(0)
        if word == "--":
            if words[:1] == ["-m"]:
                continue
            break
        if word.startswith("--dir="):
            folder = word[len("--dir=") :]
        elif word in ("--dir", "-m") and words:
            value = words.pop(0)
            if word == "-m":
                module = value
                break
            folder = value
        else:
            sys.exit(f"pptop-log: {word} is unknown or lacks its value; see --help")
    if module is None and not words:
        sys.exit("pptop-log: name the program to run, as in: python -m pptop_log train.py")
    if folder:
        os.environ["PPTOP_LOG_DIR"] = os.path.abspath(folder)
    else:
        # Whatever stood there: the user has asked for a recording.
        os.environ["PPTOP_LOG"] = "1"

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
