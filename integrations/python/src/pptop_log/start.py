"""Puts the hooks in place when a framework is imported, in jobs that do not name us.

The file ``pptop_log.pth`` of this package makes every Python process import this module if
``PPTOP_LOG_DIR`` or ``PPTOP_LOG`` is set. So children of ``torchrun``, ``mp.spawn`` and ``fork``
are seen as well. Nothing is imported here but the standard library, and no file is made before
the first step of a pipeline.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["install"]

#: The module of a framework that is hooked, and our module with ``install(module, folder)``.
_HOOKS = {
    "torch.distributed.pipelining.schedules": "pptop_log.torch",
    "deepspeed.runtime.pipe.engine": "pptop_log.deepspeed",
    "megatron.core.pipeline_parallel.schedules": "pptop_log.megatron",
}


class _Hooking(Loader):
    """Loads a module as its own loader does, and then hooks it."""

    def __init__(self, inner: Loader, folder: str) -> None:
        self._inner = inner
        self._folder = folder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        _hook(module, self._folder)

    def __getattr__(self, name: str) -> object:
        # Tools ask a loader for the source and the like.
        return getattr(self._inner, name)


class _Finder(MetaPathFinder):
    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._looked_for: set[str] = set()

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname not in _HOOKS or fullname in self._looked_for:
            return None
        self._looked_for.add(fullname)
        try:
            for finder in sys.meta_path:
                if finder is self or not hasattr(finder, "find_spec"):
                    continue
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    if spec.loader is not None:
                        spec.loader = _Hooking(spec.loader, self.folder)
                    return spec
        finally:
            self._looked_for.discard(fullname)
        return None


def _hook(module: ModuleType, folder: str) -> None:
    try:
        importlib.import_module(_HOOKS[module.__name__]).install(module, folder)
    except Exception as error:
        _say(f"cannot record: {error}; the job goes on")


def _say(what: str) -> None:
    from pptop_log.recorder import say

    say(what)


def install() -> None:
    """Waits for a framework, if the environment names a folder; once."""
    from pptop_log.watch import run_folder

    folder = run_folder()
    if folder is None or any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    folder = os.path.abspath(folder)
    # Children may run elsewhere, and all of a job write into one folder.
    os.environ["PPTOP_LOG_DIR"] = folder
    # What tells this job from others that write there: the first process and its moment.
    os.environ.setdefault("PPTOP_LOG_JOB", f"{os.getpid()}-{time.time_ns()}")
    sys.meta_path.insert(0, _Finder(folder))
    for name in _HOOKS:
        if name in sys.modules:
            _hook(sys.modules[name], folder)


try:
    install()
except Exception as error:
    _say(f"cannot record: {error}; the job goes on")
