"""Records what the ranks of a pipeline-parallel training job do, for ``pptop`` to show.

A job is recorded without a change if ``PPTOP_LOG_DIR`` names a folder (see :mod:`pptop_log.start`),
or by a call such as ``pptop_log.torch.record("folder")``. A framework without hooks of its own
uses :class:`Recorder`.
"""

from pptop_log.recorder import OPS, RankInfo, Recorder

__all__ = ["OPS", "RankInfo", "Recorder", "__version__"]

__version__ = "0.1.0"
