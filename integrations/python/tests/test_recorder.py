"""The recorder: what it writes, and that nothing that happens to its file reaches the job."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import subprocess
import sys
import textwrap
import time
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from pptop_log import RankInfo, Recorder
from pptop_log import recorder as module


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def recorded(folder: Path, **info: Any) -> Recorder:
    return Recorder(str(folder), RankInfo(**{"rank": 0, "pp": 1, **info}))


def test_lines_are_those_of_the_format(tmp_path: Path) -> None:
    with recorded(
        tmp_path / "run", rank=1, pp=2, pipeline=range(4, 6), schedule="Schedule1F1B"
    ) as it:
        it.begin_step(1)
        it.span("F", stage=1, mb=0, start_ns=10, dur_ns=5)
        it.end_step(loss=0.5, lr=None)
        it.memory(1, 2)
    first, span, step, memory, *rest = (line for line in lines(it.path) if line["ev"] != "cpu")
    assert Path(it.path).name == "rank-5.jsonl", "the file has the global rank in its name"
    assert (first["ev"], first["schema"], first["rank"], first["pp"]) == ("rank", 1, 1, 2)
    assert first["pipeline"] == [4, 5], "any sequence is a list"
    assert first["pid"] == os.getpid() and first["unix_ns"] > 0 and "model" not in first
    text = '{"ev":"span","step":1,"replica":0,"rank":1,"stage":1,"mb":0,"op":"F","start_ns":10,'
    text += '"dur_ns":5,"cpu_ns":0,"bytes":0,"starved_ns":0}'
    assert json.dumps(span, separators=(",", ":")) == text, "keys are in the order of the format"
    assert (step["ev"], step["loss"]) == ("rank_step", 0.5)
    assert "lr" not in step and "samples" not in step, "what is not known is not told"
    assert memory["peak_bytes"] == 2
    assert rest[-1]["ev"] == "rank_end" and rest[-1]["reason"] == "finished"


def test_numbers_that_json_does_not_have_are_null_with_a_note(tmp_path: Path) -> None:
    with recorded(tmp_path) as it:
        it.begin_step(1)
        it.end_step(loss=math.nan, grad_norm=-math.inf)
    step = next(line for line in lines(it.path) if line["ev"] == "rank_step")
    assert step["loss"] is None and step["nonfinite"] == "nan"
    assert step["nonfinite_fields"] == {"loss": "nan", "grad_norm": "-inf"}


def test_files_and_folders_are_for_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with recorded(tmp_path / "a") as it:
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(it.path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(tmp_path / "a").st_mode) == 0o700


def test_a_second_job_in_the_folder_has_files_of_its_own(tmp_path: Path) -> None:
    with recorded(tmp_path) as first, recorded(tmp_path) as second:
        first.log("one")
        second.log("two")
    assert Path(second.path).name == "rank-0.1.jsonl"
    assert any(line.get("message") == "one" for line in lines(first.path))
    assert not any(line.get("message") == "two" for line in lines(first.path))


def test_a_folder_that_takes_no_file_costs_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "file"
    place.write_text("")
    with recorded(place) as it:
        assert not it.is_live
        it.begin_step(1)
        for mb in range(100):
            it.span("F", 0, mb, 0, 1)
    warned = capsys.readouterr().err
    assert warned.count("\n") == 1 and "cannot record" in warned and "the job goes on" in warned


def test_a_full_disk_ends_the_recording_and_not_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    it = recorded(tmp_path)
    real, room = os.write, [300]

    def write(fd: int, text: bytes) -> int:
        if fd != it._fd:
            return real(fd, text)
        if room[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        n = real(fd, text[: room[0]])
        room[0] -= n
        return n

    monkeypatch.setattr(module.os, "write", write)
    for mb in range(100):
        it.span("F", 0, mb, 0, 1)
    it.close()
    monkeypatch.undo()
    assert it.failure is not None and "No space" in it.failure
    assert capsys.readouterr().err.count("\n") == 1
    whole, _, rest = Path(it.path).read_text().rpartition("\n")
    assert all(json.loads(line) for line in whole.splitlines()), "all but the last line are whole"
    assert rest, "the last line ends where the disk did"


def test_a_full_queue_drops_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITE_EVERY", 3600.0)
    it = Recorder(str(tmp_path), RankInfo(rank=0, pp=1), queue_max=10)
    for mb in range(50):
        it.span("F", 0, mb, 0, 1)
    assert it.n_dropped >= 39
    # The last line has a place of its own.
    it.close()
    assert lines(it.path)[-1]["ev"] == "rank_end"
    dropped = [line for line in lines(it.path) if line["ev"] == "dropped"]
    assert dropped[-1]["count"] == it.n_dropped


def test_an_operation_has_its_line_before_that_of_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end may move until the next one begins, and the writing thread may come in between."""
    monkeypatch.setattr(module, "WRITE_EVERY", 3600.0)
    it = recorded(tmp_path)
    work: module.Work = [1, 0, 3, "B", 10, 15, 0, "may still move"]

    class Queue(deque[Any]):
        def popleft(self) -> Any:
            item = super().popleft()
            if isinstance(item, dict):
                work[5], work[7] = 20, None
            return item

    it._queue = Queue()
    it.put(work)
    it._drain()
    assert lines(it.path)[-1]["ev"] != "span", "it is not over yet"
    it.step_line(1, 10, 20)
    it._drain()
    *_, span, step = lines(it.path)
    assert (span["ev"], span["mb"], span["dur_ns"]) == ("span", 3, 10)
    assert step["ev"] == "rank_step"
    it.put([2, 0, 0, "F", 30, 35, 0, "never over"])
    it.close()
    *_, span, end = lines(it.path)
    assert (span["op"], span["dur_ns"], end["ev"]) == ("F", 5, "rank_end")


def test_a_forked_child_leaves_the_file_alone(tmp_path: Path) -> None:
    it = recorded(tmp_path)
    it.span("F", 0, 0, 0, 1)
    pid = os.fork()
    if pid == 0:
        it.span("F", 0, 1, 0, 1)
        it.close()
        os._exit(0)
    os.waitpid(pid, 0)
    it.span("F", 0, 2, 0, 1)
    it.close()
    spans = [line["mb"] for line in lines(it.path) if line["ev"] == "span"]
    assert spans == [0, 2]
    assert sum(line["ev"] == "rank_end" for line in lines(it.path)) == 1


@pytest.mark.parametrize(
    ("code", "status", "end"),
    [
        ("", 0, (0, "finished")),
        ("raise ValueError('no  such\\nshape')", 1, (1, "ValueError: no such shape")),
        ("sys.exit(3)", 3, (3, "exit code 3")),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, None),
        # Caught: the job has gone on.
        (
            "try: sys.exit(3)\nexcept SystemExit: pass\nit.end_step(); it.begin_step(2)",
            0,
            (0, "finished"),
        ),
    ],
)
def test_the_last_line_says_how_the_process_ended(
    tmp_path: Path, code: str, status: int, end: tuple[int, str] | None
) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        "import sys\nfrom pptop_log import RankInfo, Recorder\n"
        f"it = Recorder({str(tmp_path / 'run')!r}, RankInfo(rank=0, pp=1))\n"
        "it.begin_step(1)\nit.span('F', 0, 0, 0, 1)\n" + textwrap.dedent(code)
    )
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == status, ran.stderr
    last = lines(str(tmp_path / "run" / "rank-0.jsonl"))[-1]
    if end is None:
        assert last["ev"] != "rank_end"
    else:
        assert (last["ev"], last["code"], last["reason"]) == ("rank_end", *end)


def test_a_child_of_multiprocessing_tells_its_error(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        "import multiprocessing, sys\nfrom pptop_log import RankInfo, Recorder\n"
        "def rank(folder):\n"
        "    it = Recorder(folder, RankInfo(rank=0, pp=1)); it.begin_step(1)\n"
        "    raise ValueError('no')\n"
        "if __name__ == '__main__':\n"
        "    for how in ('fork', 'spawn'):\n"
        f"        folder = {str(tmp_path)!r} + '/' + how\n"
        "        child = multiprocessing.get_context(how).Process(target=rank, args=(folder,))\n"
        "        child.start(); child.join()\n"
    )
    subprocess.run([sys.executable, str(script)], capture_output=True, timeout=60, check=True)
    for how in ("fork", "spawn"):
        last = lines(str(tmp_path / how / "rank-0.jsonl"))[-1]
        assert (last["ev"], last["code"]) == ("rank_end", 1), how
        assert last["reason"] in ("ValueError: no", "exit code 1"), last


def test_ranks_of_a_job_have_a_key_that_no_other_job_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith(("SLURM", "TORCHELASTIC", "MASTER", "OMPI", "PMIX", "PPTOP")):
            monkeypatch.delenv(name)
    assert module.job_key() == ""
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("PPTOP_LOG_JOB", "77-1234")
    assert module.job_key() == "MASTER_PORT=29500 PPTOP_LOG_JOB=77-1234"
    # On several machines, each has a first process of its own.
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert module.job_key() == "MASTER_PORT=29500"
    # So has each process that was started by hand.
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    monkeypatch.setenv("PPTOP_LOG_JOB", f"{os.getpid()}-1234")
    assert module.job_key() == "MASTER_PORT=29500"


def test_a_span_is_not_written_one_by_one(tmp_path: Path) -> None:
    """Not a measurement: a bound that only a mistake such as a write for each span exceeds."""
    it = recorded(tmp_path)
    began = time.perf_counter()
    for mb in range(10_000):
        it.span("F", 0, mb, 0, 1)
    per_span = (time.perf_counter() - began) / 10_000
    it.close()
    assert per_span < 200e-6
