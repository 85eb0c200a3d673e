"""PyTorch's own pipeline runtime runs plans that pptop wrote, and writes plans for pptop to run.

    torch_plans.py run DIR      every DIR/*.csv on as many CPU ranks as it has rows; the gradients must be those of the whole model
    torch_plans.py write DIR    the plans of PyTorch's schedules, one DIR/torch-*.csv each

Uses torch.distributed.pipelining, whose runtime for plans from files is private (`_PipelineScheduleRuntime`).
"""

import csv
import logging
import os
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining import schedules as torch_schedules
from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime

WIDTH = 24
ROWS_A_MICRO_BATCH = 3
TOLERANCE = 1e-5


def layer(stage: int) -> torch.nn.Module:
    """One stage of the model, the same wherever it is made."""
    torch.manual_seed(1000 + stage)
    return torch.nn.Sequential(
        torch.nn.Linear(WIDTH, 2 * WIDTH), torch.nn.GELU(), torch.nn.Linear(2 * WIDTH, WIDTH), torch.nn.LayerNorm(WIDTH)
    )


def loss_of(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.mse_loss(output, target)


def data(n_micro_batches: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    shape = (n_micro_batches * ROWS_A_MICRO_BATCH, WIDTH)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def whole_gradients(n_stages: int, n_micro_batches: int) -> dict[str, torch.Tensor]:
    """The gradients of the unpartitioned model: the mean over micro-batches."""
    model = torch.nn.Sequential(*[layer(stage) for stage in range(n_stages)])
    inputs, targets = data(n_micro_batches)
    for x, y in zip(inputs.chunk(n_micro_batches), targets.chunk(n_micro_batches), strict=True):
        (loss_of(model(x), y) / n_micro_batches).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def shape_of(path: Path) -> tuple[int, int, dict[int, int]]:
    """Ranks, micro-batches, and the rank of each stage."""
    action = torch_schedules._Action
    with path.open(newline="") as file:
        rows = [[action.from_str(cell) for cell in row] for row in csv.reader(file)]
    rank_of, micro_batches = {}, set()
    for rank, row in enumerate(rows):
        for cell in row:
            for op in [] if cell is None else cell.sub_actions or [cell]:
                rank_of[op.stage_index] = rank
                micro_batches.add(op.microbatch_index)
    return len(rows), len(micro_batches), rank_of


def stages(rank: int, rank_of: dict[int, int]) -> list[PipelineStage]:
    here = sorted(stage for stage, owner in rank_of.items() if owner == rank)
    return [PipelineStage(layer(stage), stage, len(rank_of), torch.device("cpu")) for stage in here]


def join(rank: int, n_ranks: int, meeting: str) -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=n_ranks)


def run_rank(rank: int, n_ranks: int, meeting: str, paths: list[str]) -> None:
    join(rank, n_ranks, meeting)
    for path in map(Path, paths):
        _, n_micro_batches, rank_of = shape_of(path)
        mine = stages(rank, rank_of)
        schedule = _PipelineScheduleRuntime(mine, n_micro_batches, loss_fn=loss_of)
        schedule._load_csv(str(path), format="compute_only")
        inputs, targets = data(n_micro_batches)
        first = rank_of[0] == rank
        last = rank_of[len(rank_of) - 1] == rank
        losses: list[torch.Tensor] = []
        schedule.step(*([inputs] if first else []), target=targets if last else None, losses=losses if last else None)
        want = whole_gradients(len(rank_of), n_micro_batches)
        worst = 0.0
        for stage in mine:
            for name, parameter in stage.submod.named_parameters():
                expected = want[f"{stage.stage_index}.{name}"]
                assert expected.norm() > 0, name
                worst = max(worst, ((parameter.grad - expected).norm() / expected.norm()).item())
        # Every rank's worst, at rank 0.
        everyone = torch.tensor([worst])
        dist.all_reduce(everyone, op=dist.ReduceOp.MAX)
        if rank == 0:
            verdict = "ok" if everyone.item() <= TOLERANCE else "WRONG"
            print(f"{verdict} {path.stem}: p={n_ranks} n={len(rank_of)} m={n_micro_batches}, worst gradient off by {everyone.item():.1e}", flush=True)
        assert everyone.item() <= TOLERANCE, path
    dist.destroy_process_group()


def write_rank(rank: int, n_ranks: int, meeting: str, folder: str) -> None:
    join(rank, n_ranks, meeting)
    loop = {stage: stage % n_ranks for stage in range(2 * n_ranks)}
    to_and_fro = {stage: stage if stage < n_ranks else 2 * n_ranks - 1 - stage for stage in range(2 * n_ranks)}
    for name, placement in [
        ("ScheduleLoopedBFS", loop),
        ("ScheduleInterleaved1F1B", loop),
        ("ScheduleInterleavedZeroBubble", loop),
        ("ScheduleZBVZeroBubble", to_and_fro),
        ("ScheduleDualPipeV", to_and_fro),
    ]:
        schedule = getattr(torch_schedules, name)(stages(rank, placement), 2 * n_ranks, loss_fn=loss_of)
        if rank == 0:
            schedule._dump_csv(str(Path(folder) / f"torch-{name}.csv"), format="compute_only")
    dist.destroy_process_group()


def start(target, n_ranks: int, argument) -> None:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(target, args=(n_ranks, os.path.join(folder, "meeting"), argument), nprocs=n_ranks)


def main() -> None:
    command, folder = sys.argv[1], Path(sys.argv[2])
    print(f"PyTorch {torch.__version__}")
    if command == "write":
        start(write_rank, 4, str(folder))
        return
    paths = sorted(folder.glob("*.csv"))
    assert paths, f"no plan in {folder}"
    for n_ranks in sorted({shape_of(path)[0] for path in paths}):
        start(run_rank, n_ranks, [str(path) for path in paths if shape_of(path)[0] == n_ranks])


if __name__ == "__main__":
    main()
