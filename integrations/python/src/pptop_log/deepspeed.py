"""Hooks for the pipeline engine of DeepSpeed, whose names were checked in 0.16.5 and 0.19.8.

The engine runs each instruction of its schedule by a function that it looks up in
``PipelineEngine._INSTRUCTION_MAP``; these are wrapped. Instructions name a buffer and no
micro-batch, so micro-batches are counted: both directions run them in ascending order.
"""

from __future__ import annotations

from typing import Any, Callable

from pptop_log.recorder import RankInfo
from pptop_log.torch import clock_of, mean_loss, parameters_of
from pptop_log.watch import Watch, hook_once, patch, program_of

__all__ = ["install"]


def install(engine: Any, folder: str) -> None:
    """Puts the hooks around the functions of ``deepspeed.runtime.pipe.engine``."""
    hook_once("deepspeed", folder, lambda watch: _Hooks(watch).install(engine))


class _Hooks:
    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.n_forwards = 0
        self.n_backwards = 0

    def install(self, module: Any) -> None:
        engine = module.PipelineEngine
        kinds = {kind.__name__: kind for kind in engine._INSTRUCTION_MAP}
        wanted: dict[str, Callable[[Any, Any], None]] = {
            "LoadMicroBatch": self.loaded,
            "SendActivation": self.sent,
            "RecvActivation": self.received,
            "SendGrad": self.sent,
            "RecvGrad": self.received,
            "ReduceGrads": self.reduced,
            "ReduceTiedGrads": self.reduced,
            "OptimizerStep": self.stepped,
        }
        missing = [name for name in (*wanted, "ForwardPass", "BackwardPass") if name not in kinds]
        if missing:
            raise AttributeError(f"PipelineEngine has no instruction {missing[0]}")
        patch(engine, "train_batch", self.train_batch)
        patch(engine, "eval_batch", self.eval_batch)
        instructions = engine._INSTRUCTION_MAP
        for name, then in wanted.items():
            instructions[kinds[name]] = self.timed(instructions[kinds[name]], then)
        for name, op in (("ForwardPass", "F"), ("BackwardPass", "B")):
            instructions[kinds[name]] = self.computed(instructions[kinds[name]], op)

    def train_batch(self, original: Callable[..., Any]) -> Callable[..., Any]:
        watch = self.watch

        def wrapper(engine: Any, *args: Any, **kwargs: Any) -> Any:
            if not watch.is_off:
                watch.safely(self._enter, engine)
            if watch.is_off:
                return original(engine, *args, **kwargs)
            has_failed = True
            try:
                loss = original(engine, *args, **kwargs)
                has_failed = False
            finally:
                if has_failed:
                    watch.safely(watch.end_calls, True)
            watch.safely(self._leave, engine, loss)
            return loss

        return wrapper

    def _enter(self, engine: Any) -> None:
        if not self.watch.is_open():
            self.watch.open(_info(engine), clock_of(engine.device))
        if self.watch.recorder is None or not self.watch.recorder.is_live:
            self.watch.is_off = True
            return
        self.n_forwards = self.n_backwards = 0
        self.watch.begin_step()

    def _leave(self, engine: Any, loss: Any) -> None:
        # Before the end of the step is marked, so that the device has the loss by then.
        if loss is not None and engine.stage_id == engine.num_stages - 1:
            self.watch.tell(loss=mean_loss([loss]))
        if engine.stage_id == 0:
            self.watch.tell(samples=engine.micro_batch_size * engine.micro_batches)
        self.watch.end_calls()

    def eval_batch(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(engine: Any, *args: Any, **kwargs: Any) -> Any:
            return self.watch.phase("evaluating", lambda: original(engine, *args, **kwargs))

        return wrapper

    def computed(self, original: Callable[..., Any], op: str) -> Callable[..., Any]:
        watch = self.watch

        def wrapper(engine: Any, *args: Any, **kwargs: Any) -> Any:
            if not watch.is_in_step:
                return original(engine, *args, **kwargs)
            mb = self.n_forwards if op == "F" else self.n_backwards
            work = watch.safely(watch.begin, op, engine.stage_id, mb)
            result = original(engine, *args, **kwargs)
            if watch.is_in_step:
                watch.safely(watch.end, work)
            if op == "F":
                self.n_forwards += 1
            else:
                self.n_backwards += 1
            return result

        return wrapper

    def timed(
        self, original: Callable[..., Any], then: Callable[[Any, Any], None]
    ) -> Callable[..., Any]:
        watch = self.watch

        def wrapper(engine: Any, *args: Any, **kwargs: Any) -> Any:
            if not watch.is_in_step or watch.clock.is_capturing:
                return original(engine, *args, **kwargs)
            start = watch.safely(watch.clock.mark)
            result = original(engine, *args, **kwargs)
            if watch.is_in_step:
                watch.safely(then, engine, start)
            return result

        return wrapper

    def loaded(self, engine: Any, start: Any) -> None:
        self.watch.other("data", engine.stage_id, self.n_forwards, start)

    def reduced(self, engine: Any, start: Any) -> None:
        self.watch.flush()
        self.watch.other("all_reduce", engine.stage_id, 0, start)

    def stepped(self, engine: Any, start: Any) -> None:
        self.watch.flush()
        self.watch.other("optim", engine.stage_id, 0, start)

    def sent(self, engine: Any, start: Any) -> None:
        self.watch.sent(start, self.watch.clock.mark(), 0)

    def received(self, engine: Any, start: Any) -> None:
        self.watch.waited(start, self.watch.clock.mark(), is_send=False)


def _info(engine: Any) -> RankInfo:
    grid = getattr(engine, "grid", None)
    return RankInfo(
        rank=engine.stage_id,
        pp=engine.num_stages,
        pipeline=list(getattr(grid, "pp_group", None) or ()),
        global_rank=engine.global_rank,
        program=program_of("deepspeed"),
        schedule="1F1B",
        model=type(engine.module).__name__,
        n_stages=engine.num_stages,
        micro_batches=engine.micro_batches,
        stages=[parameters_of(engine.stage_id, engine.module)],
        device=str(engine.device),
    )
