"""Stand-ins for the frameworks, with the interface that the hooks use and nothing behind it.

Which names and parameters the real packages have is checked in their sources (test_sources.py) and,
for PyTorch, by real jobs (tests/interop/watch.sh).
"""

from __future__ import annotations

import sys
import types
from typing import Any, Callable


class Device:
    type = "cpu"

    def __str__(self) -> str:
        return "cpu"


class Tensor:
    """A tensor of the host: a value, a shape and a size."""

    def __init__(self, value: float = 0.0, shape: tuple[int, ...] = ()) -> None:
        self.value, self.shape, self.device, self.nbytes = value, shape, Device(), 64

    def item(self) -> float:
        return self.value

    def detach(self) -> Tensor:
        return self

    def numel(self) -> int:
        return 10

    def element_size(self) -> int:
        return 4


class Scalar(Tensor):
    def numel(self) -> int:
        return 1


class Module:
    def parameters(self) -> Any:
        return iter([Tensor(), Tensor()])


def install_torch(monkeypatch: Any, rank: int = 0) -> dict[str, list[Callable[..., None]]]:
    """Puts a package ``torch`` in place; gives the hooks of its optimizers."""
    hooks: dict[str, list[Callable[..., None]]] = {"before": [], "after": []}
    torch: Any = types.ModuleType("torch")
    torch.__version__ = "2.15.0"
    dist: Any = types.ModuleType("torch.distributed")
    dist.group = types.SimpleNamespace(WORLD=None)
    dist.is_available = lambda: True
    dist.is_initialized = lambda: True
    dist.get_process_group_ranks = lambda group: [0, 1]
    dist.get_rank = lambda: rank
    dist.get_world_size = lambda: 2
    optim: Any = types.ModuleType("torch.optim")
    optimizer: Any = types.ModuleType("torch.optim.optimizer")
    optimizer.register_optimizer_step_pre_hook = hooks["before"].append
    optimizer.register_optimizer_step_post_hook = hooks["after"].append
    torch.distributed, torch.optim, optim.optimizer = dist, optim, optimizer
    modules = {
        "torch": torch,
        "torch.distributed": dist,
        "torch.optim": optim,
        "torch.optim.optimizer": optimizer,
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return hooks


class Optimizer:
    """An optimizer of the host, whose steps call the hooks."""

    def __init__(self, hooks: dict[str, list[Callable[..., None]]], lr: float) -> None:
        self.hooks, self.param_groups = hooks, [{"lr": lr}]

    def step(self) -> None:
        for hook in self.hooks["before"]:
            hook(self, (), {})
        for hook in self.hooks["after"]:
            hook(self, (), {})


class Work:
    def wait(self) -> None:
        return None


def isend(*args: Any) -> Work:
    return Work()


def irecv(*args: Any) -> Work:
    return Work()


class P2POp:
    def __init__(self, op: Callable[..., Work]) -> None:
        self.op, self.tensor = op, Tensor()


def torch_schedules() -> Any:
    """A module like ``torch.distributed.pipelining.schedules``, with a GPipe and a runtime."""
    module: Any = types.ModuleType("torch.distributed.pipelining.schedules")

    class _PipelineStageBase:
        def __init__(self, index: int, n: int, rank: int, size: int) -> None:
            self.stage_index, self.num_stages = index, n
            self.group_rank, self.group_size, self.group = rank, size, None
            self.is_first, self.is_last = index == 0, index == n - 1
            self.has_backward, self.device, self.submod = True, Device(), Module()

        def forward_one_chunk(
            self, mb: int, args: Any, kwargs: Any = None, save_forward_output: bool = True
        ) -> Tensor:
            return Tensor()

        def backward_one_chunk(
            self, mb: int, loss: Any = None, full_backward: bool = True, last_backward: bool = False
        ) -> None:
            return None

        def backward_weight_one_chunk(self, mb: int, last_backward: bool = False) -> None:
            return None

        def start_gradient_reduction(self) -> None:
            return None

        def wait_for_gradient_reduction(self, grad_scale_factor: int) -> None:
            return None

    class _PipelineSchedule:
        def __init__(self, stages: list[Any], m: int, loss_fn: Callable[..., Any] | None) -> None:
            self._stages, self._n_microbatches, self._loss_fn = stages, m, loss_fn
            self._has_backward = loss_fn is not None
            self._internal_losses: list[Any] = []

        def _maybe_compute_loss(
            self, stage: Any, output: Any, target_mbs: Any, mb_index: int, loss_kwargs: Any = None
        ) -> None:
            if stage.is_last and self._loss_fn is not None:
                self._internal_losses.append(self._loss_fn(mb_index))

        def _update_losses(self, stages: Any, losses: Any) -> None:
            self._internal_losses.clear()

        def eval(self, *args: Any) -> None:
            self._has_backward, before = False, self._has_backward
            try:
                self.step(*args)
            finally:
                self._has_backward = before

        def step(self, *args: Any) -> None:
            raise NotImplementedError

    class PipelineScheduleSingle(_PipelineSchedule):
        def step(self, *args: Any) -> None:
            (stage,) = self._stages
            for mb in range(self._n_microbatches):
                if not stage.is_first:
                    module._wait_batch_p2p(module._batch_p2p([P2POp(irecv)]))
                output = stage.forward_one_chunk(mb, ())
                self._maybe_compute_loss(stage, output, None, mb)
                if not stage.is_last:
                    module._wait_batch_p2p(module._batch_p2p([P2POp(isend)]))
            if self._has_backward:
                for mb in range(self._n_microbatches):
                    if not stage.is_last:
                        module._wait_batch_p2p(module._batch_p2p([P2POp(irecv)]))
                    stage.backward_one_chunk(mb)
            self._update_losses(self._stages, None)

    class PipelineScheduleMulti(_PipelineSchedule):
        is_sharded = False

        def step(self, *args: Any) -> None:
            for stage in self._stages:
                with module.record_function(f"PP:{stage.stage_index}F0"):
                    stage.forward_one_chunk(0, ())
            for stage in reversed(self._stages):
                with module.record_function(f"PP:{stage.stage_index}I0"):
                    stage.backward_one_chunk(0, full_backward=False)
            for stage in self._stages:
                if self.is_sharded:
                    stage.start_gradient_reduction()
                with module.record_function(f"PP:{stage.stage_index}W0"):
                    stage.backward_weight_one_chunk(0)
                if self.is_sharded:
                    stage.wait_for_gradient_reduction(1)

    class record_function:
        def __init__(self, name: str) -> None:
            self.name = name

        def __enter__(self) -> None:
            return None

        def __exit__(self, *error: Any) -> None:
            return None

    def batch_p2p(p2p_ops: list[P2POp], desc: str | None = None) -> list[Work]:
        return [op.op() for op in p2p_ops]

    def wait_batch_p2p(work: list[Work]) -> None:
        for each in work:
            each.wait()

    for kind in (
        _PipelineStageBase,
        _PipelineSchedule,
        PipelineScheduleSingle,
        PipelineScheduleMulti,
        record_function,
    ):
        setattr(module, kind.__name__, kind)
    module._batch_p2p, module._wait_batch_p2p = batch_p2p, wait_batch_p2p
    return module


def deepspeed_engine() -> Any:
    """A module like ``deepspeed.runtime.pipe.engine``."""
    module: Any = types.ModuleType("deepspeed.runtime.pipe.engine")
    names = (
        "OptimizerStep",
        "ReduceGrads",
        "ReduceTiedGrads",
        "LoadMicroBatch",
        "ForwardPass",
        "BackwardPass",
        "SendActivation",
        "RecvActivation",
        "SendGrad",
        "RecvGrad",
    )
    kinds = {name: type(name, (), {}) for name in names}

    def execute(self: Any, buffer_id: int = 0) -> None:
        return None

    class PipelineEngine:
        _INSTRUCTION_MAP = dict.fromkeys(kinds.values(), execute)

        def __init__(self) -> None:
            self.stage_id, self.num_stages, self.micro_batches = 0, 2, 2
            self.micro_batch_size, self.global_rank = 4, 0
            self.device, self.module = Device(), Module()
            self.grid = types.SimpleNamespace(pp_group=[0, 1])

        def run(self, names: list[str]) -> None:
            for name in names:
                self._INSTRUCTION_MAP[kinds[name]](self, buffer_id=0)

        def train_batch(self, data_iter: Any = None) -> Tensor:
            self.run(
                ["LoadMicroBatch", "ForwardPass", "SendActivation"] * 2
                + ["RecvGrad", "BackwardPass"] * 2
                + ["ReduceTiedGrads", "ReduceGrads", "OptimizerStep"]
            )
            return Tensor(0.5)

        def eval_batch(self, data_iter: Any = None) -> None:
            self.run(["ForwardPass", "SendActivation"])

    module.PipelineEngine = PipelineEngine
    return module


def megatron_schedules() -> Any:
    """A module like ``megatron.core.pipeline_parallel.schedules``: rank 1 of 2, two chunks."""
    module: Any = types.ModuleType("megatron.core.pipeline_parallel.schedules")
    module.parallel_state = types.SimpleNamespace(
        get_pipeline_model_parallel_rank=lambda: 1,
        get_pipeline_model_parallel_world_size=lambda: 2,
        get_pipeline_model_parallel_group=lambda: None,
        get_tensor_model_parallel_world_size=lambda: 1,
        get_context_parallel_world_size=lambda: 1,
    )

    class P2PCommunicator:
        pass

    def message(self: Any, *args: Any, **kwargs: Any) -> None:
        return None

    for name in (
        "recv_forward",
        "recv_backward",
        "send_forward",
        "send_backward",
        "send_forward_recv_backward",
        "send_backward_recv_forward",
        "send_forward_recv_forward",
        "send_backward_recv_backward",
        "send_forward_backward_recv_forward_backward",
    ):
        # A function of its own under each name.
        setattr(P2PCommunicator, name, lambda self, *args, _of=message, **kw: _of(self))

    def forward_step(
        forward_step_func: Any, data: Any, model: Any, m: int, input_tensor: Any, **kwargs: Any
    ) -> tuple[Tensor, int]:
        return Tensor(), 0

    def backward_step(
        input_tensor: Any, output_tensor: Any, gradient: Any, model_type: Any, config: Any
    ) -> None:
        return None

    def interleaved(
        *, model: Any, num_microbatches: int, forward_only: bool = False, **kw: Any
    ) -> Any:
        p2p, outputs = P2PCommunicator(), {}
        for chunk in range(2):
            for mb in range(num_microbatches):
                p2p.recv_forward()
                outputs[chunk, mb], _ = module.forward_step(
                    None, None, model[chunk], num_microbatches, None,
                    current_microbatch=mb, vp_stage=chunk,
                )  # fmt: skip
        if not forward_only:
            # The second chunk first, each in ascending order, as the schedule does.
            for chunk in (1, 0):
                for mb in range(num_microbatches):
                    p2p.send_backward_recv_backward()
                    module.backward_step(None, outputs[chunk, mb], None, None, None)
        return [{"lm loss": Scalar(0.25)}, {"lm loss": Scalar(0.75)}]

    module.P2PCommunicator = P2PCommunicator
    module.forward_step, module.backward_step = forward_step, backward_step
    module.forward_backward_pipelining_with_interleaving = interleaved
    module.forward_backward_pipelining_without_interleaving = interleaved
    module.forward_backward_no_pipelining = interleaved
    return module
