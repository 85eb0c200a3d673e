"""The names that the hooks wrap, in the sources of the frameworks themselves.

PPTOP_MEGATRON_SOURCE and PPTOP_DEEPSPEED_SOURCE name folders with the unpacked packages, and torch
is taken where it is installed; what is not there is skipped, and said.
"""

from __future__ import annotations

import ast
import importlib.util
import os
from pathlib import Path

import pytest

from pptop_log import megatron


def source_of(variable: str, relative: str) -> ast.Module:
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} names no sources")
    return ast.parse((Path(folder) / relative).read_text())


def functions(tree: ast.AST) -> dict[str, list[str]]:
    """Each function directly below, with its parameters."""
    return {
        node.name: [arg.arg for arg in (*node.args.args, *node.args.kwonlyargs)]
        for node in ast.iter_child_nodes(tree)
        if isinstance(node, ast.FunctionDef)
    }


def class_of(tree: ast.Module, name: str) -> ast.ClassDef:
    found: ast.ClassDef | None = None
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            found = node
    assert found is not None, f"there is no class {name}"
    return found


def test_megatron_has_the_functions_and_parameters() -> None:
    place = "megatron/core/pipeline_parallel"
    tree = source_of("PPTOP_MEGATRON_SOURCE", f"{place}/schedules.py")
    found = functions(tree)
    assert {"current_microbatch", "vp_stage"} <= set(found["forward_step"])
    assert found["backward_step"][:2] == ["input_tensor", "output_tensor"]
    for name in megatron._STEPS:
        wanted = {"model", "num_microbatches", "micro_batch_size", "forward_only"}
        assert wanted <= set(found[name]), name
    text = ast.unparse(tree)
    assert "parallel_state" in text and "P2PCommunicator" in text
    p2p = source_of("PPTOP_MEGATRON_SOURCE", f"{place}/p2p_communication.py")
    methods = functions(class_of(p2p, "P2PCommunicator"))
    assert set(megatron._METHODS) <= set(methods)
    state = source_of("PPTOP_MEGATRON_SOURCE", "megatron/core/parallel_state.py")
    assert {
        "get_pipeline_model_parallel_rank",
        "get_pipeline_model_parallel_world_size",
        "get_pipeline_model_parallel_group",
        "get_tensor_model_parallel_world_size",
        "get_context_parallel_world_size",
    } <= set(functions(state))


def test_deepspeed_has_the_instructions_and_attributes() -> None:
    tree = source_of("PPTOP_DEEPSPEED_SOURCE", "deepspeed/runtime/pipe/engine.py")
    engine = class_of(tree, "PipelineEngine")
    assert {"train_batch", "eval_batch"} <= set(functions(engine))
    text = ast.unparse(engine)
    for name in (
        "LoadMicroBatch", "ForwardPass", "BackwardPass", "SendActivation", "RecvActivation",
        "SendGrad", "RecvGrad", "ReduceGrads", "ReduceTiedGrads", "OptimizerStep",
    ):  # fmt: skip
        assert f"schedule.{name}: " in text, name
    for attribute in (
        "stage_id", "num_stages", "micro_batches", "micro_batch_size", "global_rank", "grid",
    ):  # fmt: skip
        assert f"self.{attribute} = " in text, attribute


def test_torch_has_the_functions_and_parameters() -> None:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        pytest.skip("torch is not installed")
    folder = Path(spec.origin).parent / "distributed" / "pipelining"
    stage = functions(class_of(ast.parse((folder / "stage.py").read_text()), "_PipelineStageBase"))
    assert stage["backward_one_chunk"][2:4] == ["loss", "full_backward"]
    assert {"forward_one_chunk", "backward_weight_one_chunk"} <= set(stage)
    tree = ast.parse((folder / "schedules.py").read_text())
    assert {"_batch_p2p", "_wait_batch_p2p"} <= set(functions(tree))
    base = functions(class_of(tree, "_PipelineSchedule"))
    assert base["_maybe_compute_loss"][1:5] == ["stage", "output", "target_mbs", "mb_index"]
