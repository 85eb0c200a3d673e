"""Hooks for the pipeline engine of DeepSpeed 0.16 and later.

The engine runs each instruction of its schedule by a function that it looks up in
``PipelineEngine._INSTRUCTION_MAP``; these are wrapped. Instructions name a buffer and no
micro-batch, so micro-batches are counted: both directions run them in ascending order.
"""

from __future__ import annotations

from typing import Any, Callable

from pptop_log.recorder import RankInfo
from pptop_log.torch import clock_of, mean_loss, parameters_of
from pptop_log.watch import Watch, guarded, patch

__all__ = ["install"]

_installed: _Hooks | None = None


def install(engine: Any, folder: str) -> None:
    """Puts the hooks around the functions of ``deepspeed.runtime.pipe.engine``."""
    global _installed
    if _installed is not None:
        return
    hooks = _Hooks(Watch(folder))
    _installed = hooks
    try:
        hooks.install(engine)
    except AttributeError as error:
        hooks.watch.give_up(error)


class _Hooks:
    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.n_forwards = 0
        self.n_backwards = 0

    def install(self, module: Any) -> None:
        engine = module.PipelineEngine
        patch(self.watch, engine, "train_batch", self.train_batch)
        patch(self.watch, engine, "eval_batch", self.eval_batch)
        hooks: dict[str, Callable[..., Any]] = {
            "LoadMicroBatch": self.other("data"),
            "ForwardPass": self.forward,
            "BackwardPass": self.backward,
            "SendActivation": self.send,
            "RecvActivation": self.receive,
            "SendGrad": self.send,
            "RecvGrad": self.receive,
            "ReduceGrads": self.other("all_reduce"),
            "ReduceTiedGrads": self.other("all_reduce"),
            "OptimizerStep": self.other("optim"),
        }
        instructions = {kind.__name__: kind for kind in engine._INSTRUCTION_MAP}
        for name, hook in hooks.items():
            kind = instructions.get(name)
            if kind is None:
                raise AttributeError(f"PipelineEngine has no instruction {name}")
            original = engine._INSTRUCTION_MAP[kind]
            engine._INSTRUCTION_MAP[kind] = guarded(self.watch, hook, original)

    def train_batch(
        self, original: Callable[..., Any], engine: Any, *args: Any, **kwargs: Any
    ) -> Any:
        watch = self.watch
        try:
            if watch.recorder is None or not watch.recorder.is_live:
                watch.open(_info(engine), clock_of(engine.device))
        except Exception as error:
            watch.give_up(error)
        if not watch.is_on:
            return original(engine, *args, **kwargs)
        self.n_forwards = self.n_backwards = 0
        watch.begin_step()
        try:
            loss = original(engine, *args, **kwargs)
        finally:
            watch.end_calls()
        try:
            if loss is not None and engine.stage_id == engine.num_stages - 1:
                watch.tell(loss=mean_loss([loss]))
            if engine.stage_id == 0:
                watch.tell(samples=engine.micro_batch_size * engine.micro_batches)
        except Exception as error:
            watch.give_up(error)
        return loss

    def eval_batch(
        self, original: Callable[..., Any], engine: Any, *args: Any, **kwargs: Any
    ) -> Any:
        return self.watch.phase("evaluating", lambda: original(engine, *args, **kwargs))

    def forward(self, original: Callable[..., Any], engine: Any, **kwargs: Any) -> Any:
        if not self.watch.is_in_step:
            return original(engine, **kwargs)
        work = self.watch.begin("F", engine.stage_id, self.n_forwards)
        result = original(engine, **kwargs)
        self.watch.end(work)
        self.n_forwards += 1
        return result

    def backward(self, original: Callable[..., Any], engine: Any, **kwargs: Any) -> Any:
        if not self.watch.is_in_step:
            return original(engine, **kwargs)
        work = self.watch.begin("B", engine.stage_id, self.n_backwards)
        result = original(engine, **kwargs)
        self.watch.end(work)
        self.n_backwards += 1
        return result

    def send(self, original: Callable[..., Any], engine: Any, **kwargs: Any) -> Any:
        watch = self.watch
        if not watch.is_in_step:
            return original(engine, **kwargs)
        start = watch.clock.mark()
        result = original(engine, **kwargs)
        watch.sent(start, watch.clock.mark(), 0)
        return result

    def receive(self, original: Callable[..., Any], engine: Any, **kwargs: Any) -> Any:
        watch = self.watch
        if not watch.is_in_step:
            return original(engine, **kwargs)
        start = watch.clock.mark()
        result = original(engine, **kwargs)
        watch.waited(start, watch.clock.mark(), is_send=False)
        return result

    def other(self, op: str) -> Callable[..., Any]:
        watch = self.watch

        def hook(original: Callable[..., Any], engine: Any, **kwargs: Any) -> Any:
            if not watch.is_in_step:
                return original(engine, **kwargs)
            watch.flush()
            start = watch.clock.mark()
            result = original(engine, **kwargs)
            mb = self.n_forwards if op == "data" else 0
            watch.other(op, engine.stage_id, mb, start)
            return result

        return hook


def _info(engine: Any) -> RankInfo:
    from importlib.metadata import PackageNotFoundError, version

    try:
        program = f"deepspeed {version('deepspeed')}"
    except PackageNotFoundError:
        program = "deepspeed"
    grid = getattr(engine, "grid", None)
    return RankInfo(
        rank=engine.stage_id,
        pp=engine.num_stages,
        pipeline=list(getattr(grid, "pp_group", None) or ()),
        global_rank=engine.global_rank,
        program=program,
        schedule="1F1B",
        model=type(engine.module).__name__,
        n_stages=engine.num_stages,
        micro_batches=engine.micro_batches,
        stages=[parameters_of(engine.stage_id, engine.module)],
        device=str(engine.device),
    )
