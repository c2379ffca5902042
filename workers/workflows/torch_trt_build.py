# SPDX-License-Identifier: Apache-2.0
"""Compile a model with Torch-TensorRT into one TorchScript file, by either front end.

A dynamo module is traced, with its engines, into TorchScript: the one format that every version from 2.2 on can save
(`docsrc/user_guide/saving_models.rst` of Torch-TensorRT 2.2.0).
"""

import base64
import copy
from typing import Any, Dict, Tuple

from workers.workflows.errors import BuildOutOfMemory, Unsupported, WorkflowError, is_out_of_memory
from workers.workflows.partition import Partition
from workers.workflows.torch_trt_compat import Settings
from workers.workflows.torch_trt_graph import engine_paths, script_partition, watched

#: Where a serialised engine keeps the plan among its fields, up to the versions that tell.
_ENGINE_FIELD = 3
_NOT_WHOLE = ("full compilation", "not all operations in graph are supported")
_EXPORT_ERRORS = ("Unsupported", "UserError", "TorchRuntimeError", "ConstraintViolationError", "TracingCheckError")


def build(
    torch: Any,
    torch_tensorrt: Any,
    module: Any,
    plan: Settings,
    shape: Tuple[int, ...],
    device: str,
    calibrator: Any = None,
    tokens: bool = False,
) -> Tuple[Any, Dict[str, Any]]:
    """Compile a copy of `module` (fp32, on the host) for inputs of `shape`; return it as a script, and facts.

    `tokens`: the input is int32, and not of the module's type.

    Raises:
        BuildOutOfMemory: memory ran out.
        Unsupported: the model cannot be exported, or not as a whole where that was asked for.
        WorkflowError: no engine was made, or the build failed.
    """
    dtype = getattr(torch, plan.module_dtype)
    try:
        placed = copy.deepcopy(module).requires_grad_(False).to(dtype).to(device)
        example = torch.zeros(shape, dtype=torch.int32 if tokens else dtype, device=device)
        front_end = _dynamo if plan.frontend == "dynamo" else _torchscript
        script, partition = front_end(torch, torch_tensorrt, placed, plan, example, calibrator)
    except Exception as error:
        raise _explained(error, shape[0]) from error
    finally:
        torch.cuda.empty_cache()
    check_partition(partition, bool(plan.keywords.get("require_full_compilation")))
    paths = engine_paths(script.inlined_graph)
    weights = sum(parameter.numel() for parameter in module.parameters() if parameter.dim() > 1)
    return script, dict(
        partition.facts("pytorch"),
        fallback_node_share=partition.share_left(),
        engine_bytes=sum(_engine_bytes(torch, script, path) for path in paths if path),
        weights=weights,
        settings=plan.facts(),
    )


def check_partition(partition: Partition, whole: bool) -> None:
    """Raise unless there is an engine, and all of the graph in engines where the whole was asked for."""
    if not partition.engines:
        raise WorkflowError(
            "Torch-TensorRT made no engine and left all {} operators to PyTorch: {}".format(
                partition.total, ", ".join(sorted(set(partition.left))[:5])
            ),
            "That would measure PyTorch. Lower the option `min_block_size`, or use `pytorch` or `onnx_tensorrt`.",
            "no-engine",
        )
    if whole and partition.left:
        raise _not_whole("{} of {} operators: {}".format(len(partition.left), partition.total, partition.left[0]))


def _dynamo(
    torch: Any, torch_tensorrt: Any, module: Any, plan: Settings, example: Any, _calibrator: Any
) -> Tuple[Any, Partition]:
    with watched(torch_tensorrt.dynamo._compiler) as conversions:
        compiled = _compile(torch, torch_tensorrt, module, plan, example, {})
    partition = conversions.partition(compiled)
    check_partition(partition, False)
    # What tracing would compare are two runs of the same engines. `strict` would refuse a list of outputs.
    return torch.jit.trace(compiled, example, check_trace=False, strict=False), partition


def _torchscript(
    torch: Any, torch_tensorrt: Any, module: Any, plan: Settings, example: Any, calibrator: Any
) -> Tuple[Any, Partition]:
    # Traced, not scripted: a classification model takes one path, and scripts hold every other one too.
    traced = torch.jit.trace(module, example, check_trace=False)
    more = {"calibrator": calibrator} if calibrator is not None else {}
    compiled = _compile(torch, torch_tensorrt, traced, plan, example, more)
    return compiled, script_partition(traced.inlined_graph, compiled.inlined_graph)


def _compile(torch: Any, torch_tensorrt: Any, module: Any, plan: Settings, example: Any, more: Dict[str, Any]) -> Any:
    arguments = dict(plan.keywords, **more)
    if plan.enabled_precisions:
        arguments["enabled_precisions"] = {getattr(torch, name) for name in plan.enabled_precisions}
    inputs = [torch_tensorrt.Input(shape=tuple(example.shape), dtype=example.dtype)]
    return torch_tensorrt.compile(module, ir=plan.frontend, inputs=inputs, **arguments)


def _engine_bytes(torch: Any, script: Any, path: Tuple[str, ...]) -> int:
    """Size of one engine's plan, read from what the engine serialises to."""
    found = script
    for name in path:
        found = getattr(found, name)
    index = getattr(torch.ops.tensorrt, "ENGINE_IDX", None)
    return len(base64.b64decode(found.__getstate__()[0][index() if index else _ENGINE_FIELD]))


def _explained(error: Exception, batch: int) -> Exception:
    """What a compiler raised, in the farm's terms."""
    if isinstance(error, WorkflowError):
        return error
    text = str(error).strip() or type(error).__name__
    if is_out_of_memory(error):
        return BuildOutOfMemory(
            "memory ran out while Torch-TensorRT compiled for batch {}: {}".format(batch, text),
            "Use a smaller batch, or a device with more memory.",
        )
    if any(words in text.lower() for words in _NOT_WHOLE):
        return _not_whole(text)
    if type(error).__name__ in _EXPORT_ERRORS:
        return Unsupported(
            "the model cannot be exported for Torch-TensorRT: {}".format(text),
            "Set the option `frontend` to the other front end, or use `pytorch`.",
            "graph-break",
        )
    # TensorRT tells why in the log alone: the builder gives an empty engine, and the front ends say no more.
    return WorkflowError(
        "Torch-TensorRT could not compile the model for batch {}: {}".format(batch, text),
        "The run's log has TensorRT's words; memory that ran out while building looks like this too.",
        "build-failed",
    )


def _not_whole(why: str) -> Unsupported:
    return Unsupported(
        "TensorRT does not take the whole model: {}".format(why),
        "Leave `require_full_compilation` out, or for int8, which needs it, use onnx_tensorrt.",
        "operator-unsupported",
    )


def output_of(found: Any) -> Any:
    """The one tensor of what a compiled module gives: itself, or in a tuple or list (dynamo).

    Raises:
        WorkflowError: there are several.
    """
    if isinstance(found, (tuple, list)):
        if len(found) != 1:
            raise WorkflowError("the compiled module gave {} outputs instead of one".format(len(found)))
        return found[0]
    return found
