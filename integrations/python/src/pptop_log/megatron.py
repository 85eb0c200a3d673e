"""Hooks for the pipeline schedules of Megatron Core 0.16.

The schedules call ``forward_step`` and ``backward_step`` of their own module by name; these are
wrapped. A forward names its micro-batch and its chunk. A backward names neither, but it is given
the tensor that the forward has returned, by which it is known again. The methods of
``P2PCommunicator`` are where a rank waits.
"""

from __future__ import annotations

from typing import Any, Callable

from pptop_log.recorder import RankInfo
from pptop_log.torch import (
    clock_of,
    hook_optimizers,
    is_captured,
    mean_loss,
    parameters_of,
)
from pptop_log.watch import Watch, hook_once, patch, program_of

__all__ = ["install"]

#: Methods of the communicator, and whether they receive anything.
_METHODS = {
    "recv_forward": True,
    "recv_backward": True,
    "send_forward": False,
    "send_backward": False,
    "send_forward_recv_backward": True,
    "send_backward_recv_forward": True,
    "send_forward_recv_forward": True,
    "send_backward_recv_backward": True,
    "send_forward_backward_recv_forward_backward": True,
}
#: Functions that run a step, and what their schedule is called here.
_STEPS = {
    "forward_backward_no_pipelining": "",
    "forward_backward_pipelining_without_interleaving": "1F1B",
    "forward_backward_pipelining_with_interleaving": "interleaved 1F1B",
}


def install(schedules: Any, folder: str) -> None:
    """Puts the hooks around the functions of ``megatron.core.pipeline_parallel.schedules``."""
    hook_once("megatron", folder, lambda watch: _Hooks(watch, schedules).install())


class _Hooks:
    def __init__(self, watch: Watch, schedules: Any) -> None:
        self.watch = watch
        self.schedules = schedules
        self.pp = 1
        self.rank = 0
        #: Whether each pipeline has samples of its own.
        self.has_own_samples = True
        #: The stage and micro-batch of each forward, by the tensor that it has returned.
        self._of_output: dict[int, tuple[int, int]] = {}
        self._n_backwards = 0

    def install(self) -> None:
        for name, schedule in _STEPS.items():
            patch(self.schedules, name, self.step(schedule))
        patch(self.schedules, "forward_step", self.forward)
        patch(self.schedules, "backward_step", self.backward)
        for name, receives in _METHODS.items():
            patch(self.schedules.P2PCommunicator, name, self.message(receives))
        hook_optimizers(self.watch)

    def step(self, schedule: str) -> Callable[..., Any]:
        watch = self.watch

        def hook(original: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                kind = None if watch.is_off else watch.safely(self._enter, schedule, kwargs)
                if watch.is_off or not kind:
                    return original(*args, **kwargs)
                if kind == "evaluation":
                    return watch.phase("evaluating", lambda: original(*args, **kwargs))
                has_failed = True
                try:
                    losses = original(*args, **kwargs)
                    has_failed = False
                finally:
                    if has_failed:
                        watch.safely(watch.end_calls, True)
                watch.safely(self._leave, losses, kwargs)
                return losses

            return wrapper

        return hook

    def _enter(self, schedule: str, kwargs: dict[str, Any]) -> str:
        watch = self.watch
        model = kwargs["model"]
        first = model[0] if isinstance(model, list) else model
        if is_captured(next(first.parameters()).device):
            watch.tell_blind()
            return ""
        if not watch.is_open():
            info, device = self._info(schedule, kwargs)
            watch.open(info, clock_of(device))
        if watch.recorder is None or not watch.recorder.is_live:
            watch.is_off = True
        if kwargs.get("forward_only"):
            return "evaluation"
        self._of_output.clear()
        self._n_backwards = 0
        watch.begin_step()
        return "step"

    def _leave(self, losses: Any, kwargs: dict[str, Any]) -> None:
        # Before the end of the step is marked, so that the device has the loss by then.
        self.watch.tell(loss=_loss(losses))
        if self.rank == 0 and self.has_own_samples and "micro_batch_size" in kwargs:
            self.watch.tell(samples=kwargs["micro_batch_size"] * kwargs["num_microbatches"])
        self.watch.end_calls()

    def forward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        watch = self.watch

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not watch.is_in_step:
                return original(*args, **kwargs)
            mb = kwargs.get("current_microbatch")
            stage = (kwargs.get("vp_stage") or 0) * self.pp + self.rank
            place = (stage, len(self._of_output) if mb is None else int(mb))
            work = watch.safely(watch.begin, "F", *place)
            result = original(*args, **kwargs)
            if watch.is_in_step:
                watch.safely(watch.end, work)
                watch.safely(self._note, result, place)
            return result

        return wrapper

    def _note(self, result: Any, place: tuple[int, int]) -> None:
        self._of_output[id(_first(result[0]))] = place

    def backward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        watch = self.watch

        def wrapper(input_tensor: Any, output_tensor: Any, *args: Any, **kwargs: Any) -> Any:
            if not watch.is_in_step:
                return original(input_tensor, output_tensor, *args, **kwargs)
            known = self._of_output.get(id(_first(output_tensor)))
            place = known if known is not None else (self.rank, self._n_backwards)
            self._n_backwards += 1
            work = watch.safely(watch.begin, "B", *place)
            result = original(input_tensor, output_tensor, *args, **kwargs)
            if watch.is_in_step:
                watch.safely(watch.end, work)
            return result

        return wrapper

    def message(self, receives: bool) -> Callable[..., Any]:
        watch = self.watch

        def hook(original: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                if not watch.is_in_step or self.pp == 1 or watch.clock.is_capturing:
                    return original(*args, **kwargs)
                start = watch.safely(watch.clock.mark)
                result = original(*args, **kwargs)
                if watch.is_in_step:
                    watch.safely(self._passed, start, receives)
                return result

            return wrapper

        return hook

    def _passed(self, start: Any, receives: bool) -> None:
        end = self.watch.clock.mark()
        if receives:
            self.watch.waited(start, end, is_send=False)
        else:
            self.watch.sent(start, end, 0)

    def _info(self, schedule: str, kwargs: dict[str, Any]) -> tuple[RankInfo, Any]:
        import torch.distributed as dist

        state = self.schedules.parallel_state
        self.rank = state.get_pipeline_model_parallel_rank()
        self.pp = state.get_pipeline_model_parallel_world_size()
        model = kwargs["model"]
        chunks = model if isinstance(model, list) else [model]
        stages = [
            parameters_of(chunk * self.pp + self.rank, part) for chunk, part in enumerate(chunks)
        ]
        device = next(chunks[0].parameters()).device
        group = state.get_pipeline_model_parallel_group()
        # Pipelines that share their tensors or their context have the same samples.
        sizes = (state.get_tensor_model_parallel_world_size, state.get_context_parallel_world_size)
        self.has_own_samples = all(size() == 1 for size in sizes)
        info = RankInfo(
            rank=self.rank,
            pp=self.pp,
            pipeline=list(dist.get_process_group_ranks(group)),
            global_rank=dist.get_rank(),
            world_size=dist.get_world_size(),
            program=program_of("megatron-core"),
            schedule=schedule,
            model=type(chunks[0]).__name__,
            n_stages=len(chunks) * self.pp,
            micro_batches=kwargs.get("num_microbatches"),
            stages=stages,
            device=str(device),
        )
        return info, device


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, (list, tuple)) and output else output


def _loss(losses: Any) -> Any:
    """The mean of what the last stage returns for each micro-batch: a dictionary whose first value
    is a loss, or a sum of losses with the number that they are of. ``None`` elsewhere."""
    if not isinstance(losses, list) or not losses:
        return None
    each = []
    for entry in losses:
        value = next(iter(entry.values())) if isinstance(entry, dict) and entry else None
        if value is None or not hasattr(value, "numel"):
            return None
        if value.numel() == 2:
            value = value.flatten()[0] / value.flatten()[1]
        if value.numel() != 1:
            return None
        each.append(value)
    return mean_loss(each)
