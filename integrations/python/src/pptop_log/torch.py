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
from pptop_log.watch import Watch, hook_once, patch, run_folder

__all__ = ["record"]

_ACTION = re.compile(r"PP:(\d+)([FBIW])(\d+)$")


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
    hook_once("torch", folder, lambda watch: _Hooks(watch).install(schedules))


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
        #: How deep in a call that posts messages: it may post them group by group.
        self._posting = 0

    def install(self, schedules: Any) -> None:
        stage = schedules._PipelineStageBase
        patch(stage, "forward_one_chunk", self.operation("F"))
        patch(stage, "backward_one_chunk", self.operation("B"))
        patch(stage, "backward_weight_one_chunk", self.operation("W"))
        patch(stage, "start_gradient_reduction", self.start_reduction)
        patch(stage, "wait_for_gradient_reduction", self.wait_for_reduction)
        base = schedules._PipelineSchedule
        patch(base, "_maybe_compute_loss", self.loss)
        patch(base, "_update_losses", self.losses)
        for name in ("PipelineScheduleSingle", "PipelineScheduleMulti"):
            patch(getattr(schedules, name), "step", self.step)
        patch(schedules, "_batch_p2p", self.post)
        patch(schedules, "_wait_batch_p2p", self.wait)
        self._name_actions(schedules)
        hook_optimizers(self.watch)

    # Steps.

    def step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        watch = self.watch

        def wrapper(schedule: Any, *args: Any, **kwargs: Any) -> Any:
            # A subclass may have a step that calls that of its base.
            if watch.is_off or watch.lane.depth:
                return original(schedule, *args, **kwargs)
            kind = watch.safely(self._enter, schedule, args, kwargs)
            if watch.is_off or not kind:
                return original(schedule, *args, **kwargs)
            lane = watch.lane
            lane.depth += 1
            has_failed = True
            try:
                if kind == "evaluation":
                    return watch.phase("evaluating", lambda: original(schedule, *args, **kwargs))
                result = original(schedule, *args, **kwargs)
                has_failed = False
                return result
            finally:
                lane.depth -= 1
                if kind == "step":
                    watch.safely(watch.end_calls, has_failed)
                    self._receives.clear()

        return wrapper

    def _enter(self, schedule: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """What a call of ``step`` is; a training step begins here."""
        watch, stages = self.watch, _stages(schedule)
        if is_captured(stages[0].device):
            watch.tell_blind()
            return ""
        if not watch.is_open():
            watch.open(_info(schedule, stages), clock_of(stages[0].device))
        if watch.recorder is None or not watch.recorder.is_live:
            watch.is_off = True
        # A schedule without a loss only runs forward, and that is its work.
        if not (schedule._has_backward or schedule._loss_fn is None):
            return "evaluation"
        watch.begin_step()
        if any(stage.is_first for stage in stages):
            watch.tell(samples=_samples(args, kwargs))
        return "step"

    # Operations.

    def operation(self, named: str) -> Callable[..., Any]:
        watch = self.watch

        def hook(original: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(stage: Any, *args: Any, **kwargs: Any) -> Any:
                if not watch.is_in_step:
                    return original(stage, *args, **kwargs)
                work = None
                try:
                    op = _backward(args, kwargs) if named == "B" else named
                    if op == "F" or stage.has_backward:
                        mb = args[0] if args else _chunk(kwargs)
                        work = watch.begin(op, stage.stage_index, mb)
                    else:
                        watch.lane.has_fired = True
                except Exception as error:
                    watch.give_up(error)
                result = original(stage, *args, **kwargs)
                if work is not None and watch.is_in_step:
                    try:
                        watch.end(work)
                    except Exception as error:
                        watch.give_up(error)
                return result

            return wrapper

        return hook

    def loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        watch = self.watch

        def wrapper(schedule: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(schedule, *args, **kwargs)
            if watch.is_in_step and schedule._loss_fn is not None:
                try:
                    # ``_maybe_compute_loss(stage, output, target_mbs, mb_index, loss_kwargs=None)``
                    stage = args[0] if args else kwargs["stage"]
                    if stage.is_last and not watch.clock.is_capturing:
                        mb = args[3] if len(args) > 3 else kwargs["mb_index"]
                        watch.extend(stage.stage_index, mb)
                except Exception as error:
                    watch.give_up(error)
            return result

        return wrapper

    def losses(self, original: Callable[..., Any]) -> Callable[..., Any]:
        watch = self.watch

        def wrapper(schedule: Any, *args: Any, **kwargs: Any) -> Any:
            is_seen = watch.is_in_step and not watch.clock.is_capturing
            if is_seen and schedule._internal_losses:
                loss = watch.safely(mean_loss, schedule._internal_losses)
                watch.tell(loss=loss)
            return original(schedule, *args, **kwargs)

        return wrapper

    def _name_actions(self, schedules: Any) -> None:
        """The runtime's name of each action, for operations that no other hook sees."""
        original, watch, action_of = schedules.record_function, self.watch, self._action

        class Named:
            __slots__ = ("_action", "_inner", "_start")

            def __init__(self, name: str, *args: Any, **kwargs: Any) -> None:
                self._inner = original(name, *args, **kwargs)
                self._action = action_of(name) if watch.is_in_step else None
                self._start: Any = None

            def __enter__(self) -> Any:
                if self._action is not None:
                    watch.safely(self._begins)
                return self._inner.__enter__()

            def __exit__(self, *error: Any) -> Any:
                result = self._inner.__exit__(*error)
                if self._start is not None and watch.is_in_step and error[0] is None:
                    watch.safely(self._ends)
                return result

            def _begins(self) -> None:
                if not watch.clock.is_capturing:
                    watch.lane.has_fired = False
                    self._start = watch.clock.mark()

            def _ends(self) -> None:
                lane = watch.lane
                if lane.has_fired or self._action is None:
                    return
                # It has computed since it last waited.
                start = lane.waits[-1][1] if lane.waits else self._start
                work = watch.begin(*self._action)
                if work is not None:
                    work[4] = start
                    watch.end(work)

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

    def post(self, original: Callable[..., Any]) -> Callable[..., Any]:
        watch = self.watch

        def wrapper(p2p_ops: Any, *args: Any, **kwargs: Any) -> Any:
            if not p2p_ops or not watch.is_in_step or watch.clock.is_capturing or self._posting:
                return original(p2p_ops, *args, **kwargs)
            start = watch.safely(watch.clock.mark)
            self._posting += 1
            try:
                works = original(p2p_ops, *args, **kwargs)
            finally:
                self._posting -= 1
            watch.safely(self._posted, p2p_ops, works, start)
            return works

        return wrapper

    def _posted(self, p2p_ops: Any, works: Any, start: Any) -> None:
        end, n_bytes, receives = self.watch.clock.mark(), 0, False
        for p2p in p2p_ops:
            if p2p.op.__name__ == "isend":
                n_bytes += p2p.tensor.nbytes
            else:
                receives = True
        self._receives[id(works)] = receives
        if n_bytes and start is not None:
            self.watch.sent(start, end, n_bytes)

    def wait(self, original: Callable[..., Any]) -> Callable[..., Any]:
        watch = self.watch

        def wrapper(work: Any) -> Any:
            if not work or not watch.is_in_step or watch.clock.is_capturing:
                return original(work)
            receives = self._receives.pop(id(work), True)
            start = watch.safely(watch.clock.mark)
            result = original(work)
            if watch.is_in_step:
                end = watch.safely(watch.clock.mark)
                watch.safely(watch.waited, start, end, not receives)
            return result

        return wrapper

    # What follows the operations.

    def start_reduction(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(stage: Any, *args: Any, **kwargs: Any) -> Any:
            watch = self.watch
            if watch.is_in_step and not watch.clock.is_capturing:
                self._reductions[stage.stage_index] = watch.safely(watch.clock.mark)
            return original(stage, *args, **kwargs)

        return wrapper

    def wait_for_reduction(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(stage: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(stage, *args, **kwargs)
            start = self._reductions.pop(stage.stage_index, None)
            if start is not None and not self.watch.is_off:
                self.watch.safely(self.watch.other, "all_reduce", stage.stage_index, 0, start)
            return result

        return wrapper


def _backward(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """``backward_one_chunk(mb, loss=None, full_backward=True, last_backward=False)``."""
    is_full = args[2] if len(args) > 2 else kwargs.get("full_backward", True)
    return "B" if is_full else "I"


def _chunk(kwargs: dict[str, Any]) -> int:
    """The micro-batch, if it was named."""
    return int(kwargs["fwd_chunk_id"] if "fwd_chunk_id" in kwargs else kwargs["bwd_chunk_id"])


def is_captured(device: Any) -> bool:
    """Whether a CUDA graph is captured on the present stream."""
    if device.type != "cuda":
        return False
    import torch

    return bool(torch.cuda.is_current_stream_capturing())


def hook_optimizers(watch: Watch) -> None:
    """Records each step of each optimizer of PyTorch, from the first step of the pipeline on."""
    from torch.optim import optimizer as module

    began: dict[int, Any] = {}

    def begins(optimizer: Any, args: Any, kwargs: Any) -> None:
        if not watch.is_off and watch.step > 0 and not watch.clock.is_capturing:
            began[id(optimizer)] = watch.safely(watch.clock.mark)

    def ends(optimizer: Any, args: Any, kwargs: Any) -> None:
        start = began.pop(id(optimizer), None)
        if start is not None and not watch.is_off and not watch.clock.is_capturing:
            watch.safely(ended, optimizer, start)

    def ended(optimizer: Any, start: Any) -> None:
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

    clock = CudaClock(torch.cuda, device)
    _hook_captures(torch.cuda.CUDAGraph, clock)
    return clock


def _hook_captures(graph: Any, clock: CudaClock) -> None:
    """While a graph is captured, no thread may ask for an event: that would end the capture."""

    def begins(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            clock.capture_begins()
            try:
                return original(*args, **kwargs)
            except BaseException:
                clock.capture_ends()
                raise

        return wrapper

    def ends(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                return original(*args, **kwargs)
            finally:
                clock.capture_ends()

        return wrapper

    patch(graph, "capture_begin", begins)
    # Where there is an earlier half, a capture that fails ends with it.
    name = "capture_end_pre" if hasattr(graph, "capture_end_pre") else "capture_end"
    patch(graph, name, ends)


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
    try:
        parts = kwargs.get("arg_mbs")
        inputs = list(args[:1]) if parts is None else [part[0] for part in parts]
        return sum(int(value.shape[0]) for value in inputs) if inputs else None
    except (AttributeError, IndexError, RuntimeError, TypeError):
        # Inputs without a shape, such as nested tensors: then the number is not known.
        return None


def mean_loss(losses: list[Any]) -> Any:
    """The mean of the losses of all micro-batches: a number, or a function that gives it when the
    device has come so far."""
    if losses[0].device.type == "cpu":
        return sum([loss.item() for loss in losses]) / len(losses)
    import torch

    mean = torch.stack([loss.detach().float() for loss in losses]).mean()
    # Into memory that the device can write by itself, so that nobody waits.
    host = torch.empty((), dtype=torch.float32, pin_memory=True)
    host.copy_(mean, non_blocking=True)
    return lambda: float(host)


if __name__ == "__main__":
    sys.exit("run a job with python -m pptop_log -- PROGRAM")
