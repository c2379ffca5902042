# SPDX-License-Identifier: Apache-2.0
"""ONNX files: exported from PyTorch, checked, and what is inside them. Needs `onnx`; used in prepare only."""

import inspect
import warnings
from typing import Any, Dict, List, Sequence, Tuple

from workers.workflows.base import require
from workers.workflows.errors import (
    DamagedModel,
    InputShapeMismatch,
    Unsupported,
    WorkflowError,
    is_out_of_memory,
)

OPSET = 17
INPUT = "input"
OUTPUT = "output"
#: Protocol buffers hold no more in one file.
_MOST_BYTES = 2**31 - 2**20
_EXAMPLE_BATCH = 2
#: What the farm feeds, by numpy's names.
_TYPES = {"float32": "FLOAT", "int32": "INT32"}

_COMPUTE = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
_QUANTIZED = {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QGemm", "DynamicQuantizeLinear"}


def export(
    torch: Any,
    module: Any,
    input_shape: Tuple[int, ...],
    path: str,
    fallback: bool = True,
    input_type: str = "float32",
) -> str:
    """Write `module` as an ONNX file with a dynamic batch; return the exporter that did it.

    torch's TorchScript exporter takes a third to an eighth of the time of its successor, which is tried only where the
    first fails and `onnxscript` is installed, and not without `fallback`: it cannot export quantizers.

    Raises:
        Unsupported: the model is too large for one file, or no exporter takes it.
    """
    size = sum(t.numel() * t.element_size() for t in module.state_dict().values())
    if size > _MOST_BYTES:
        raise Unsupported(
            "the model has {} bytes of weights and one ONNX file holds 2 GiB".format(size),
            "Use a workflow that needs no ONNX file.",
            "model-too-large",
        )
    example = torch.zeros((_EXAMPLE_BATCH, *input_shape), dtype=getattr(torch, input_type))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation and tracing notes; the file is checked and compared instead
        try:
            _export_torchscript(torch, module, example, path)
            return "torchscript"
        except Exception as error:  # a boundary: exporters fail in any way
            if is_out_of_memory(error):
                raise
            if not fallback:
                raise _export_failed(error) from error
            _export_dynamo(torch, module, example, path, error)
            return "dynamo"


def _export_torchscript(torch: Any, module: Any, example: Any, path: str) -> None:
    arguments: Dict[str, Any] = {
        "opset_version": OPSET,
        "input_names": [INPUT],
        "output_names": [OUTPUT],
        "dynamic_axes": {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
    }
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:
        arguments["dynamo"] = False
    torch.onnx.export(module, (example,), path, **arguments)


def _export_dynamo(torch: Any, module: Any, example: Any, path: str, first: Exception) -> None:
    try:
        require("onnxscript")
        batch = torch.export.Dim("batch", min=1)
        torch.onnx.export(
            module,
            (example,),
            path,
            dynamo=True,
            external_data=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: batch},),
        )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise _export_failed(first) from first


def _export_failed(error: Exception) -> Unsupported:
    return Unsupported(
        "the model cannot be exported to ONNX: {}".format(error),
        "Use a workflow that needs no ONNX file, or export the model yourself and give the file.",
        "export-failed",
    )


def examine(path: str) -> Dict[str, Any]:
    """Check a file and return what is in it.

    Returns `input` (name), `input_shape` (integers, or None where dynamic), `input_type` (as ONNX names it), `outputs`
    (names), `opset`, `float_types`, `quantize`, `dequantize`, `quantized_operators`, `compute` and `compute_quantized`
    (counts of nodes).

    Raises:
        DamagedModel: it is not a valid ONNX file.
        Unsupported: it is valid, and more than one input or outputs that are not tensors.
    """
    model = _checked(path)
    graph = model.graph
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initializers]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise Unsupported(
            "the ONNX file has {} inputs ({}) and the farm feeds one".format(len(inputs), names),
            "Export the model with one input.",
            "input-count",
        )
    facts = {
        "input": inputs[0].name,
        "input_shape": _tensor_shape(inputs[0]),
        "input_type": _tensor_type(inputs[0]),
        "outputs": [value.name for value in graph.output],
        "opset": max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")),
        "float_types": _float_types(graph),
    }
    if any(value.type.WhichOneof("value") != "tensor_type" for value in graph.output):
        raise Unsupported("the ONNX file has outputs that are not tensors", None, "output-type")
    return dict(facts, **_count(graph.node))


def check_input(facts: Dict[str, Any], input_shape: Sequence[int], input_type: str = "float32") -> None:
    """Hold a file's input against the shape that the sweep gives and the type that the farm feeds.

    Raises:
        Unsupported: it is of another type.
        InputShapeMismatch: naming both.
    """
    fed = _TYPES[input_type]
    if facts.get("input_type", fed) != fed:
        raise Unsupported(
            "the ONNX file's input {!r} is {} and the farm feeds {}".format(facts["input"], facts["input_type"], fed),
            "Export the model with a {} input.".format(input_type),
            "input-type",
        )
    declared = facts["input_shape"]
    fits = len(declared) == len(input_shape) + 1
    if fits and all(d is None or d == given for d, given in zip(declared[1:], input_shape)):
        return
    shown = ", ".join("any" if d is None else str(d) for d in declared)
    raise InputShapeMismatch(
        "the ONNX file's input {!r} has shape ({}) with the batch first; the sweep gives ({})".format(
            facts["input"], shown, ", ".join(["batch"] + [str(extent) for extent in input_shape])
        ),
        "Set the model's `input` in the sweep to [{}].".format(shown.split(", ", 1)[-1] if len(declared) > 1 else ""),
    )


def check_batch(facts: Dict[str, Any], batch_size: int) -> None:
    """Refuse a batch size that a file with a fixed batch does not take. Raises Unsupported."""
    fixed = facts["input_shape"][0]
    if fixed is not None and fixed != batch_size:
        raise Unsupported(
            "the ONNX file has a fixed batch of {} and batch {} was asked for".format(fixed, batch_size),
            "Export the model with a dynamic first dimension, or set the sweep's `batch` to [{}].".format(fixed),
            "fixed-batch",
        )


def _checked(path: str) -> Any:
    onnx = require("onnx")
    try:
        model = onnx.load(path, load_external_data=False)
        external = any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer)
        if not external:
            onnx.checker.check_model(path)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise _check_failed(path, error) from error
    if external:
        raise Unsupported(
            "the ONNX file keeps weights in other files, which the farm does not carry",
            "Save it as one file: `onnx.save(onnx.load(PATH), NEW_PATH)`.",
            "external-data",
        )
    return model


def _check_failed(path: str, error: Exception) -> WorkflowError:
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "No Op registered" in text or "domain_version" in text:
        return Unsupported(
            "this stack's onnx does not know an operator of {}: {}".format(path, text),
            "Export the model with an older opset, or use a stack with a newer onnx.",
            "operator-unsupported",
        )
    return DamagedModel(
        "{} is not a valid ONNX file: {}".format(path, text),
        "Export the model again; `python -m onnx.bin.checker FILE`, or onnx.checker.check_model, shows the fault.",
    )


def _tensor_shape(value: Any) -> List[Any]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims]


def _tensor_type(value: Any) -> str:
    import onnx

    return str(onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type))


def _float_types(graph: Any) -> List[str]:
    import onnx

    names = {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in graph.initializer}
    return sorted(name for name in names if "FLOAT" in name or name == "DOUBLE")


def _count(nodes: Any) -> Dict[str, int]:
    dequantized = {output for node in nodes if node.op_type == "DequantizeLinear" for output in node.output}
    compute = [node for node in nodes if node.op_type in _COMPUTE]
    quantized = [node for node in compute if all(name in dequantized for name in node.input[:2])]
    operators = sum(node.op_type in _QUANTIZED for node in nodes)
    return {
        "quantize": sum(node.op_type == "QuantizeLinear" for node in nodes),
        "dequantize": sum(node.op_type == "DequantizeLinear" for node in nodes),
        "quantized_operators": operators,
        "compute": len(compute) + operators,
        "compute_quantized": len(quantized) + operators,
    }
