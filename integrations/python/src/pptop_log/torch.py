"""Hooks for ``torch.distributed.pipelining`` of PyTorch 2.15.

:func:`record` puts them in place. Every schedule goes through the same few functions: those of a
stage that run a micro-batch forward and backward, those of the module that post and await
messages, and ``step`` and ``eval`` of the schedule. The runtime of the multi-stage schedules also
names each action (``PP:0F3``); where a program has replaced the calls of a stage by functions of
its own, the operation is known by that name alone.
"""

from __future__ import annotations

import re
import sys
from typing import Any, Callable

from pptop_log.clocks import Clock, CudaClock, HostClock
from pptop_log.recorder import RankInfo
from pptop_log.watch import Watch, patch, run_folder

__all__ = ["record"]

_ACTION = re.compile(r"PP:(\d+)([FBIW])(\d+)$")
_installed: _Hooks | None = None


def record(folder: str | None = None) -> None:
    """Records every pipeline of this process into files in ``folder``.

    Call it before the first step. By default the folder is the one that ``PPTOP_LOG_DIR`` or
    ``PPTOP_LOG`` names; without either nothing is recorded. A second call does nothing.
    """
    folder = folder or run_folder()
    if folder is None:
        return
    from torch.distributed.pipelining import schedules

    install(schedules, folder)


def install(schedules: Any, folder: str) -> None:
    """Puts the hooks around the functions of ``torch.distributed.pipelining.schedules``."""
    global _installed
    if _installed is not None:
        return
    hooks = _Hooks(Watch(folder))
    _installed = hooks
    try:
        hooks.install(schedules)
    except (AttributeError, ImportError) as error:
        hooks.watch.give_up(error)


def _number(value: Any) -> float | None:
    """A number of the host, if reading it does not wait for a device."""
    device = getattr(value, "device", None)
    if device is not None and getattr(device, "type", "cpu") != "cpu":
        return None
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return None


class _Hooks:
    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        #: For each list of works that was posted and not awaited: whether it receives anything.
        self._receives: dict[int, bool] = {}
        self._actions: dict[str, tuple[str, int, int] | None] = {}
        self._reductions: dict[int, Any] = {}
        self._is_blind = False

    def install(self, schedules: Any) -> None:
        watch = self.watch
        stage = schedules._PipelineStageBase
        patch(watch, stage, "forward_one_chunk", self.forward)
        patch(watch, stage, "backward_one_chunk", self.backward)
        patch(watch, stage, "backward_weight_one_chunk", self.backward_weight)
        patch(watch, stage, "start_gradient_reduction", self.start_reduction)
        patch(watch, stage, "wait_for_gradient_reduction", self.wait_for_reduction)
        base = schedules._PipelineSchedule
        patch(watch, base, "_maybe_compute_loss", self.loss)
        patch(watch, base, "_update_losses", self.losses)
        for name in ("PipelineScheduleSingle", "PipelineScheduleMulti"):
            patch(watch, getattr(schedules, name), "step", self.step)
        patch(watch, schedules, "_batch_p2p", self.post)
        patch(watch, schedules, "_wait_batch_p2p", self.wait)
        self._name_actions(schedules)
        hook_optimizers(watch)

    # Steps.

    def step(self, original: Callable[..., Any], schedule: Any, *args: Any, **kwargs: Any) -> Any:
        watch, lane = self.watch, self.watch.lane
        if lane.depth:
            # A subclass whose step calls that of its base.
            return original(schedule, *args, **kwargs)
        try:
            stages = _stages(schedule)
            if watch.recorder is None or not watch.recorder.is_live:
                watch.open(_info(schedule, stages), clock_of(stages[0].device))
        except Exception as error:
            watch.give_up(error)
            return original(schedule, *args, **kwargs)
        if not watch.is_on:
            return original(schedule, *args, **kwargs)
        lane.depth += 1
        try:
            # A schedule without a loss only runs forward, and that is its work.
            if schedule._has_backward or schedule._loss_fn is None:
                watch.begin_step()
                if any(stage.is_first for stage in stages):
                    watch.tell(samples=_samples(args, kwargs))
                try:
                    return original(schedule, *args, **kwargs)
                finally:
                    watch.end_calls()
                    self._receives.clear()
            return watch.phase("evaluating", lambda: original(schedule, *args, **kwargs))
        finally:
            lane.depth -= 1

    # Operations.

    def forward(
        self, original: Callable[..., Any], stage: Any, mb: int, *args: Any, **kwargs: Any
    ) -> Any:
        if not self._sees():
            return original(stage, mb, *args, **kwargs)
        work = self.watch.begin("F", stage.stage_index, mb)
        result = original(stage, mb, *args, **kwargs)
        self.watch.end(work)
        return result

    def backward(
        self, original: Callable[..., Any], stage: Any, mb: int, *args: Any, **kwargs: Any
    ) -> Any:
        if not stage.has_backward or not self._sees():
            return original(stage, mb, *args, **kwargs)
        # backward_one_chunk(mb, loss=None, full_backward=True, last_backward=False)
        is_full = args[1] if len(args) > 1 else kwargs.get("full_backward", True)
        work = self.watch.begin("B" if is_full else "I", stage.stage_index, mb)
        result = original(stage, mb, *args, **kwargs)
        self.watch.end(work)
        return result

    def backward_weight(
        self, original: Callable[..., Any], stage: Any, mb: int, *args: Any, **kwargs: Any
    ) -> Any:
        if not stage.has_backward or not self._sees():
            return original(stage, mb, *args, **kwargs)
        work = self.watch.begin("W", stage.stage_index, mb)
        result = original(stage, mb, *args, **kwargs)
        self.watch.end(work)
        return result

    def loss(
        self,
        original: Callable[..., Any],
        schedule: Any,
        stage: Any,
        output: Any,
        target_mbs: Any,
        mb_index: int,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        result = original(schedule, stage, output, target_mbs, mb_index, *args, **kwargs)
        if stage.is_last and schedule._loss_fn is not None and self._sees():
            self.watch.extend(stage.stage_index, mb_index)
        return result

    def losses(self, original: Callable[..., Any], schedule: Any, *args: Any) -> Any:
        if self.watch.is_in_step and schedule._internal_losses:
            try:
                self.watch.tell(loss=mean_loss(schedule._internal_losses))
            except Exception as error:
                self.watch.give_up(error)
        return original(schedule, *args)

    def _sees(self) -> bool:
        """Whether work of the rank is to be recorded now."""
        if not self.watch.is_in_step:
            return False
        if self.watch.clock.name == "device":
            import torch

            if torch.cuda.is_current_stream_capturing():
                if not self._is_blind and self.watch.recorder is not None:
                    self._is_blind = True
                    self.watch.recorder.warn(
                        "a CUDA graph is captured: operations inside it are not seen"
                    )
                return False
        return True

    def _name_actions(self, schedules: Any) -> None:
        """The runtime's name of each action, for operations that no other hook sees."""
        original, watch, action_of = schedules.record_function, self.watch, self._action

        class Named:
            __slots__ = ("_inner", "_work")

            def __init__(self, name: str, *args: Any) -> None:
                self._inner = original(name, *args)
                self._work: Any = action_of(name)

            def __enter__(self) -> Any:
                if self._work is not None and watch.is_on and watch.is_in_step:
                    watch.lane.has_fired = False
                    # Waits inside come before the work.
                    self._work = (*self._work, watch.clock.mark())
                else:
                    self._work = None
                return self._inner.__enter__()

            def __exit__(self, *error: Any) -> Any:
                result = self._inner.__exit__(*error)
                if self._work is not None and not watch.lane.has_fired and watch.is_on:
                    op, stage, mb, start = self._work
                    if watch.lane.waits:
                        start = watch.lane.waits[-1][1]
                    work = watch.begin(op, stage, mb)
                    work.start = start
                    watch.end(work)
                return result

        schedules.record_function = Named

    def _action(self, name: str) -> tuple[str, int, int] | None:
        try:
            return self._actions[name]
        except KeyError:
            found = _ACTION.match(name)
            action = (found[2], int(found[1]), int(found[3])) if found else None
            self._actions[name] = action
            return action

    # Messages.

    def post(self, original: Callable[..., Any], p2p_ops: Any, *args: Any, **kwargs: Any) -> Any:
        watch = self.watch
        if not p2p_ops or not watch.is_in_step:
            return original(p2p_ops, *args, **kwargs)
        start = watch.clock.mark()
        works = original(p2p_ops, *args, **kwargs)
        end = watch.clock.mark()
        n_bytes, receives = 0, False
        for p2p in p2p_ops:
            if p2p.op.__name__ == "isend":
                n_bytes += p2p.tensor.nbytes
            else:
                receives = True
        self._receives[id(works)] = receives
        if n_bytes:
            watch.sent(start, end, n_bytes)
        return works

    def wait(self, original: Callable[..., Any], work: Any) -> Any:
        watch = self.watch
        if not work or not watch.is_in_step:
            return original(work)
        receives = self._receives.pop(id(work), True)
        start = watch.clock.mark()
        result = original(work)
        watch.waited(start, watch.clock.mark(), is_send=not receives)
        return result

    # What follows the operations.

    def start_reduction(self, original: Callable[..., Any], stage: Any, *args: Any) -> Any:
        if self.watch.is_in_step:
            self._reductions[stage.stage_index] = self.watch.clock.mark()
        return original(stage, *args)

    def wait_for_reduction(self, original: Callable[..., Any], stage: Any, *args: Any) -> Any:
        result = original(stage, *args)
        start = self._reductions.pop(stage.stage_index, None)
        if start is not None:
            self.watch.other("all_reduce", stage.stage_index, 0, start)
        return result


def hook_optimizers(watch: Watch) -> None:
    """Records each step of each optimizer of PyTorch, from the first step of the pipeline on."""
    from torch.optim import optimizer as module

    began: dict[int, Any] = {}

    def begins(optimizer: Any, args: Any, kwargs: Any) -> None:
        if watch.is_on and watch.step > 0:
            began[id(optimizer)] = watch.clock.mark()

    def ends(optimizer: Any, args: Any, kwargs: Any) -> None:
        start = began.pop(id(optimizer), None)
        if start is None or not watch.is_on:
            return
        watch.other("optim", 0, 0, start)
        if optimizer.param_groups:
            watch.tell(lr=_number(optimizer.param_groups[0].get("lr")))

    module.register_optimizer_step_pre_hook(begins)
    module.register_optimizer_step_post_hook(ends)


def _stages(schedule: Any) -> list[Any]:
    stages = getattr(schedule, "_stages", None)
    return list(stages) if stages is not None else [schedule._stage]


def clock_of(device: Any) -> Clock:
    """The clock of spans on a device."""
    if device.type != "cuda":
        return HostClock()
    import torch

    return CudaClock(torch.cuda)


def _info(schedule: Any, stages: list[Any]) -> RankInfo:
    import torch
    import torch.distributed as dist

    first = stages[0]
    info = RankInfo(
        rank=first.group_rank,
        pp=first.group_size,
        program=f"torch {torch.__version__}",
        schedule=type(schedule).__name__,
        model=type(first.submod).__name__,
        n_stages=first.num_stages,
        micro_batches=schedule._n_microbatches,
        stages=[parameters_of(stage.stage_index, stage.submod) for stage in stages],
        device=str(first.device),
    )
    if dist.is_available() and dist.is_initialized():
        info.pipeline = list(dist.get_process_group_ranks(first.group or dist.group.WORLD))
        info.global_rank = dist.get_rank()
        info.world_size = dist.get_world_size()
    if first.device.type == "cuda":
        about = torch.cuda.get_device_properties(first.device)
        info.uuid = f"GPU-{about.uuid}" if hasattr(about, "uuid") else None
        if hasattr(about, "pci_bus_id"):
            domain = getattr(about, "pci_domain_id", 0)
            info.pci = f"{domain:08x}:{about.pci_bus_id:02x}:{about.pci_device_id:02x}.0"
    return info


def parameters_of(stage: int, module: Any) -> dict[str, int]:
    """What the first line of a file says of a stage."""
    parameters = list(module.parameters())
    return {
        "stage": stage,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "parameter_bytes": sum(p.numel() * p.element_size() for p in parameters),
    }


def _samples(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """Samples of a step: the first dimension of its first input, over all micro-batches."""
    parts = kwargs.get("arg_mbs")
    inputs = [part[0] for part in parts if part] if parts else list(args[:1])
    if not inputs or any(len(getattr(value, "shape", ())) == 0 for value in inputs):
        return None
    return sum(int(value.shape[0]) for value in inputs)


def mean_loss(losses: list[Any]) -> Any:
    """The mean of the losses of all micro-batches: a number, or a function that gives it when the
    device has come so far."""
    import torch

    if losses[0].device.type == "cpu":
        return sum(float(loss.detach()) for loss in losses) / len(losses)
    mean = torch.stack([loss.detach().float() for loss in losses]).mean()
    # Into memory that the device can write by itself, so that nobody waits.
    host = torch.empty((), dtype=torch.float32, pin_memory=True)
    host.copy_(mean, non_blocking=True)
    return lambda: float(host)


if __name__ == "__main__":
    sys.exit("run a job with python -m pptop_log -- PROGRAM")
