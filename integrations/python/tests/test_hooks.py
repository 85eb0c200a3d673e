"""The hooks, on stand-ins for the frameworks."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pptop_log.deepspeed
import pptop_log.megatron
import pptop_log.torch
import standins
from pptop_log import recorder, watch


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Each test installs the hooks anew, and its recorders end with it."""
    monkeypatch.setattr(watch, "_hooked", set())
    yield
    recorder._close_all()


def lines(folder: Path, name: str = "rank-0.jsonl") -> list[dict[str, Any]]:
    recorder._close_all()
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def spans(all_lines: list[dict[str, Any]], step: int = 1) -> list[str]:
    """Spans of a step in the order of time, as ``stage op micro-batch``."""
    of_step = [line for line in all_lines if line["ev"] == "span" and line["step"] == step]
    of_step.sort(key=lambda line: line["start_ns"])
    return [f"{line['stage']} {line['op']} {line['mb']}" for line in of_step]


def test_a_single_stage_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = standins.install_torch(monkeypatch, rank=1)
    module = standins.torch_schedules()
    pptop_log.torch.install(module, str(tmp_path))
    stage = module._PipelineStageBase(1, 2, 1, 2)
    schedule = module.PipelineScheduleSingle([stage], 2, lambda mb: standins.Tensor(1.0 + mb))
    optimizer = standins.Optimizer(hooks, lr=0.1)
    for _ in range(2):
        schedule.step(standins.Tensor(shape=(8, 4)))
        optimizer.step()
    schedule.eval()
    found = lines(tmp_path, "rank-1.jsonl")
    head = found[0]
    assert (head["rank"], head["pp"], head["schedule"]) == (1, 2, "PipelineScheduleSingle")
    assert head["program"] == "torch 2.15.0" and head["pipeline"] == [0, 1]
    assert head["stages"] == [{"stage": 1, "parameters": 20, "parameter_bytes": 80}]
    wanted = ["1 wait_act 0", "1 F 0", "1 wait_act 1", "1 F 1", "1 B 0", "1 B 1", "0 optim 0"]
    assert spans(found) == wanted and spans(found, 2) == wanted
    steps = [line for line in found if line["ev"] == "rank_step"]
    assert [(step["step"], step["loss"], step["lr"]) for step in steps] == [
        (1, 1.5, 0.1),
        (2, 1.5, 0.1),
    ]
    assert "samples" not in steps[0], "only the first stage knows the inputs"
    phases = [line for line in found if line["ev"] == "phase"]
    assert [phase["dur_ns"] is None for phase in phases] == [True, False]
    assert not any(line["ev"] == "span" and line["step"] > 2 for line in found)


def test_the_first_stage_tells_samples_and_what_it_sends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standins.install_torch(monkeypatch)
    module = standins.torch_schedules()
    pptop_log.torch.install(module, str(tmp_path))
    stage = module._PipelineStageBase(0, 2, 0, 2)
    schedule = module.PipelineScheduleSingle([stage], 1, lambda mb: standins.Tensor())
    schedule.step(standins.Tensor(shape=(8, 4)))
    found = lines(tmp_path)
    assert spans(found) == ["0 F 0", "0 send 0", "0 send 0", "0 wait_grad 0", "0 B 0"]
    sent = [line["bytes"] for line in found if line.get("op") == "send"]
    assert sent == [64, 0], "posting has the bytes, awaiting has none"
    step = next(line for line in found if line["ev"] == "rank_step")
    assert step["samples"] == 8 and "loss" not in step


def test_a_runtime_whose_stages_are_not_called_is_known_by_its_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standins.install_torch(monkeypatch)
    module = standins.torch_schedules()
    pptop_log.torch.install(module, str(tmp_path))
    own = [module._PipelineStageBase(at, 4, 0, 2) for at in (0, 2)]
    schedule = module.PipelineScheduleMulti(own, 1, lambda mb: standins.Tensor())
    schedule.step()
    wanted = ["0 F 0", "2 F 0", "2 I 0", "0 I 0", "0 W 0", "2 W 0"]
    original = module._PipelineStageBase.forward_one_chunk.__pptop_original__

    def replaced(*args: Any, **kwargs: Any) -> Any:
        return original(own[0], *args, **kwargs)

    # A program that runs the stages by functions of its own.
    for stage in own:
        stage.forward_one_chunk = replaced
    schedule.step()
    found = lines(tmp_path)
    assert spans(found) == wanted and spans(found, 2) == wanted


def test_reductions_of_fsdp_last_from_their_start_to_the_end_of_their_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standins.install_torch(monkeypatch)
    module = standins.torch_schedules()
    pptop_log.torch.install(module, str(tmp_path))
    stage = module._PipelineStageBase(0, 1, 0, 1)
    schedule = module.PipelineScheduleMulti([stage], 1, lambda mb: standins.Tensor())
    schedule.is_sharded = True
    schedule.step()
    found = lines(tmp_path)
    assert spans(found) == ["0 F 0", "0 I 0", "0 all_reduce 0", "0 W 0"]
    reduced, weight = (
        next(line for line in found if line.get("op") == op) for op in ("all_reduce", "W")
    )
    assert reduced["dur_ns"] >= weight["dur_ns"], "it lasts beside the weight gradient"


def test_another_version_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    standins.install_torch(monkeypatch)
    module = standins.torch_schedules()
    del module._PipelineStageBase.backward_weight_one_chunk
    pptop_log.torch.install(module, str(tmp_path))
    stage = module._PipelineStageBase(0, 1, 0, 1)
    module.PipelineScheduleSingle([stage], 1, lambda mb: standins.Tensor()).step()
    warned = capsys.readouterr().err
    assert warned.count("\n") == 1 and "backward_weight_one_chunk" in warned
    assert list(tmp_path.iterdir()) == []


def test_the_job_s_own_errors_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standins.install_torch(monkeypatch)
    module = standins.torch_schedules()
    pptop_log.torch.install(module, str(tmp_path))

    def fails(mb: int) -> Any:
        raise ZeroDivisionError("of the job")

    schedule = module.PipelineScheduleSingle([module._PipelineStageBase(0, 1, 0, 1)], 1, fails)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="of the job"):
            schedule.step()
    found = lines(tmp_path)
    assert spans(found) == ["0 F 0"] and spans(found, 2) == ["0 F 0"]
    assert not any(line["ev"] == "rank_step" for line in found), "no step was ever over"


def test_an_error_of_ours_ends_the_recording_and_not_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    standins.install_torch(monkeypatch)
    module = standins.torch_schedules()
    pptop_log.torch.install(module, str(tmp_path))
    losses: list[Any] = []

    def odd(mb: int) -> Any:
        # A loss that is no tensor.
        losses.append(mb)
        return object()

    schedule = module.PipelineScheduleSingle([module._PipelineStageBase(0, 1, 0, 1)], 2, odd)
    schedule.step(object())
    schedule.step(object())
    assert losses == [0, 1, 0, 1], "the job has gone on"
    warned = capsys.readouterr().err
    assert warned.count("\n") == 1 and "recording stopped" in warned
    last = lines(tmp_path)[-1]
    assert last["ev"] == "rank_end" and "recording stopped" in last["reason"], last


def test_deepspeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standins.install_torch(monkeypatch)
    module = standins.deepspeed_engine()
    pptop_log.deepspeed.install(module, str(tmp_path))
    engine = module.PipelineEngine()
    engine.train_batch()
    engine.eval_batch()
    engine.train_batch()
    found = lines(tmp_path)
    wanted = [
        "0 data 0", "0 F 0", "0 send 0", "0 data 1", "0 F 1", "0 send 1",
        "0 wait_grad 0", "0 B 0", "0 wait_grad 1", "0 B 1",
        "0 all_reduce 0", "0 all_reduce 0", "0 optim 0",
    ]  # fmt: skip
    assert spans(found) == wanted and spans(found, 2) == wanted
    steps = [line for line in found if line["ev"] == "rank_step"]
    assert [step["samples"] for step in steps] == [8, 8]
    assert (found[0]["schedule"], found[0]["pipeline"]) == ("1F1B", [0, 1])


def test_megatron(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standins.install_torch(monkeypatch)
    module = standins.megatron_schedules()
    pptop_log.megatron.install(module, str(tmp_path))
    model = [standins.Module(), standins.Module()]
    run = module.forward_backward_pipelining_with_interleaving
    run(model=model, num_microbatches=2, micro_batch_size=3)
    run(model=model, num_microbatches=2, micro_batch_size=3, forward_only=True)
    found = lines(tmp_path)
    assert [line for line in spans(found) if line.split()[1] in "FB"] == [
        "1 F 0", "1 F 1", "3 F 0", "3 F 1", "3 B 0", "3 B 1", "1 B 0", "1 B 1",
    ]  # fmt: skip
    assert spans(found).count("3 wait_act 0") == 1 and spans(found).count("1 wait_grad 1") == 1
    head = found[0]
    assert [stage["stage"] for stage in head["stages"]] == [1, 3]
    assert (head["n_stages"], head["micro_batches"], head["rank"]) == (4, 2, 1)
    (step,) = [line for line in found if line["ev"] == "rank_step"]
    assert step["loss"] == 0.5


def run_code(code: str, tmp_path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Python with a package ``torch`` of one line, and the hook that the wheel's .pth calls."""
    package = tmp_path / "site" / "torch" / "distributed" / "pipelining"
    package.mkdir(parents=True, exist_ok=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "schedules.py").write_text("name = 'schedules'\n")
    source = Path(pptop_log.__file__).parent.parent
    pth = (source / "pptop_log.pth").read_text()
    paths = f"{tmp_path / 'site'}:{source}"
    return subprocess.run(
        [sys.executable, "-c", pth + code],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": paths, "HOME": str(tmp_path), **env},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_nothing_happens_without_the_variable(tmp_path: Path) -> None:
    ran = run_code("import sys; print('pptop_log' in sys.modules)", tmp_path)
    assert (ran.stdout, ran.stderr) == ("False\n", "")
    off = run_code("import sys; print(len(sys.meta_path))", tmp_path, PPTOP_LOG="0")
    plain = run_code("import sys; print(len(sys.meta_path))", tmp_path)
    assert off.stdout == plain.stdout


def test_a_framework_is_hooked_when_it_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; assert 'torch' not in sys.modules\n"
        "import pptop_log.torch as hooks\n"
        "hooks.install = lambda module, folder: print(module.name, folder)\n"
        "import torch.distributed.pipelining.schedules as s\n"
        "print(s.__loader__.get_filename()[-12:])\n"
        "import os; print(os.environ['PPTOP_LOG_DIR'])"
    )
    ran = run_code(code, tmp_path, PPTOP_LOG_DIR=str(tmp_path / "run"))
    assert ran.stdout.splitlines() == [
        f"schedules {tmp_path / 'run'}",
        "schedules.py",
        str(tmp_path / "run"),
    ], ran.stderr
    assert not (tmp_path / "run").exists(), "no file before the first step"


def test_the_first_process_chooses_the_folder_and_children_keep_it(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys\nprint(os.environ['PPTOP_LOG_DIR'], flush=True)\n"
        "code = \"import os; print(os.environ['PPTOP_LOG_DIR'])\"\n"
        "subprocess.run([sys.executable, '-c', code], check=True)"
    )
    ran = run_code(code, tmp_path, PPTOP_LOG="1", PPTOP_STATE_DIR=str(tmp_path / "state"))
    first, second = ran.stdout.splitlines()
    assert first == second and first.startswith(str(tmp_path / "state" / "runs" / "job-"))
    slurm = run_code(code, tmp_path, PPTOP_LOG="1", SLURM_JOB_ID="7", SLURM_STEP_ID="2")
    assert slurm.stdout.splitlines()[0].endswith("/runs/slurm-7-2")


def test_a_module_that_cannot_be_hooked_is_imported_all_the_same(tmp_path: Path) -> None:
    code = "import torch.distributed.pipelining.schedules as s; print(s.name)"
    ran = run_code(code, tmp_path, PPTOP_LOG_DIR=str(tmp_path / "run"))
    assert ran.stdout == "schedules\n"
    assert ran.stderr.count("\n") == 1 and "the job goes on" in ran.stderr


def test_the_runner(tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text("import os, sys; print(sys.argv, os.environ['PPTOP_LOG_DIR'])")
    ran = subprocess.run(
        [sys.executable, "-m", "pptop_log", "--dir", "run", "--", str(program), "--lr", "1"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(pptop_log.__file__).parent.parent)},
    )  # fmt: skip
    assert ran.stdout == f"{[str(program), '--lr', '1']} {tmp_path / 'run'}\n", ran.stderr
    assert ran.stderr == f"pptop-log: recording into {tmp_path / 'run'}\n"
    module = tmp_path / "job.py"
    module.write_text("import os, sys; print(sys.argv[1:], os.environ['PPTOP_LOG_DIR'])")
    ran = subprocess.run(
        [sys.executable, "-m", "pptop_log", "-m", "job", "--lr", "3"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={"PATH": "/usr/bin:/bin", "PPTOP_LOG": "0", "PPTOP_STATE_DIR": str(tmp_path),
             "PYTHONPATH": str(Path(pptop_log.__file__).parent.parent)},
    )  # fmt: skip
    assert ran.stdout.startswith(f"['--lr', '3'] {tmp_path}/runs/job-"), ran.stderr
    run_main = importlib.import_module("pptop_log.__main__").main
    for words in ([], ["--dir"], ["--unknown", "train.py"]):
        with pytest.raises(SystemExit, match="pptop-log: "):
            run_main(words)
