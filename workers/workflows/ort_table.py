# SPDX-License-Identifier: Apache-2.0
"""The int8 calibration table of ONNX Runtime's TensorRT provider, and whether the provider could use it.

`onnxruntime.quantization.write_calibration_table` leaves three files: `calibration.flatbuffers`, which the provider
reads (unless it is told that the table is TensorRT's own text), and `calibration.cache` and `.json`, which it does not.
A table that does not fit is not an error for the provider: tensors that it does not name run in fp32. So the names are
held against the graph that the provider gave to TensorRT.
"""

import glob
import math
import os
import re
import tempfile
from typing import Any, Dict, Iterable, List, Set, Tuple

from workers.workflows.errors import PrecisionNotHeld, WorkflowError

RECIPE = 1
NAME = "calibration.flatbuffers"
_SMALLEST = 1e-30
_COMPUTE = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
#: TensorRT's warning about a tensor without a range; its layers fall back from int8.
_MISSING = re.compile(r"Missing scale and zero-point for tensor (\S+?),? expect fall back")


class _Range(List[float]):
    """A symmetric range as each version of the writer takes it: a pair (1.17), or an object with `to_dict` (1.18).

    Symmetric, because the newer writer takes the larger of the two ends where the older takes the larger magnitude.
    """

    def to_dict(self) -> Dict[str, Any]:
        import numpy as np

        return {"lowest": np.float32(self[0]), "highest": np.float32(self[1])}


def write(ranges: Dict[str, Tuple[float, float]], path: str) -> int:
    """Write tensor -> (low, high) as a table; return how many tensors it has, read back.

    Raises:
        WorkflowError: there is nothing to write, or what was written is something else.
    """
    from onnxruntime.quantization import write_calibration_table

    largest = {name: max(abs(low), abs(high)) for name, (low, high) in ranges.items()}
    # A tensor that is always 0 has no scale, and the provider's parser of numbers fails on a float32 that underflows.
    wanted = {name: value for name, value in largest.items() if value > _SMALLEST}
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as work:
        write_calibration_table({name: _Range([-value, value]) for name, value in wanted.items()}, work)
        os.replace(os.path.join(work, NAME), path)
    found = read(path)
    if set(found) != set(wanted) or any(not math.isclose(found[k], wanted[k], rel_tol=1e-6) for k in wanted):
        raise _damaged(path, "it does not hold the ranges that were written")
    return len(found)


def read(path: str) -> Dict[str, float]:
    """Tensor -> largest magnitude, as the provider will read it.

    Raises:
        WorkflowError: the table is damaged or empty.
    """
    from onnxruntime.quantization.CalTableFlatBuffers.TrtTable import TrtTable

    with open(path, "rb") as stream:
        content = stream.read()
    try:
        table = TrtTable.GetRootAsTrtTable(content, 0)
        rows = [table.Dict(i) for i in range(table.DictLength())]
        found = {row.Key().decode("utf-8"): float(row.Value()) for row in rows}
    except Exception as error:  # a boundary: a damaged buffer raises whatever the offsets lead to
        raise _damaged(path, "{}: {}".format(type(error).__name__, error)) from error
    if not found or len(found) != len(rows) or not all(0 < value < math.inf for value in found.values()):
        raise _damaged(path, "it holds {} tensors, or ranges that are no ranges".format(len(found)))
    return found


def _damaged(path: str, why: str) -> WorkflowError:
    return WorkflowError(
        "the calibration table {} cannot be used: {}".format(path, why),
        "Delete the kind `ort_table` from the worker's cache, then run it again.",
        "calibration-failed",
    )


def subgraphs(directory: str) -> List[Any]:
    """The graphs that the provider gave to TensorRT, from what `trt_dump_subgraphs` left in a directory."""
    import onnx

    paths = sorted(glob.glob(os.path.join(glob.escape(directory), "*TRTKernel*.onnx")))
    return [onnx.load(path).graph for path in paths]


def coverage(graphs: Iterable[Any], named: Set[str]) -> Dict[str, Any]:
    """How far a table fits the graphs.

    Returns `tensors` of the graphs, how many of them are `named` by the table, `compute` nodes (convolutions and
    matrix products) and `compute_covered`: those whose activations and outputs all have a range.
    """
    found = {"tensors": 0, "named": 0, "compute": 0, "compute_covered": 0}
    for graph in graphs:
        constants = {tensor.name for tensor in graph.initializer}
        constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
        names = {value.name for value in graph.input} | {name for node in graph.node for name in node.output}
        names -= constants | {""}
        found["tensors"] += len(names)
        found["named"] += len(names & named)
        for node in graph.node:
            if node.op_type in _COMPUTE:
                touched = {name for name in (*node.input, *node.output) if name} - constants
                found["compute"] += 1
                found["compute_covered"] += touched <= named
    return found


def assert_used(found: Dict[str, Any], log: str) -> Dict[str, Any]:
    """Hold a build to its table; returns the coverage with the number of tensors that TensorRT found no range for.

    Raises:
        PrecisionNotHeld: no convolution or matrix product has its ranges, or the GPU has no fast int8.
    """
    missing = {match.group(1) for match in _MISSING.finditer(log)}
    if not found["compute_covered"]:
        raise PrecisionNotHeld(
            "the calibration table was not used: of {tensors} tensors that TensorRT was given, it names {named}, and "
            "{compute_covered} of {compute} convolutions and matrix products have their ranges".format(**found),
            "ONNX Runtime gave TensorRT a graph with other names, or left the model's products to other providers.",
            "calibration-not-used",
        )
    assert_supported(log)
    return dict(found, tensors_without_range=len(missing))


def assert_supported(log: str) -> None:
    """Raise PrecisionNotHeld where the provider says that it turned a precision off."""
    for line in log.splitlines():
        if "platform doesn't support fast native" in line:
            raise PrecisionNotHeld(
                "ONNX Runtime turned the precision off: {}".format(line.strip()), "Use another device or precision."
            )
