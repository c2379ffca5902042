# SPDX-License-Identifier: Apache-2.0
"""What TensorRT's engine inspector tells: types between layers, the tactics chosen, the precision held. Pure."""

import json
from typing import Any, Dict, List, Optional

from farm.contract.canonical import digest
from workers.workflows.errors import PrecisionNotHeld


def layers_of(text: str) -> List[Any]:
    """The layers in an inspector's JSON: mappings, or bare names where it tells no more; empty for anything else."""
    try:
        # TensorRT 8.6 writes a bare record separator (U+001E) between the ONNX layers that a layer was made from.
        found = json.loads(text, strict=False)["Layers"]
    except (ValueError, KeyError, TypeError):
        return []
    return found if isinstance(found, list) else []


def tensor_formats(text: str) -> Dict[str, int]:
    """Count the types of layers' outputs in an inspector's JSON; empty where it holds no layer in detail."""
    found = {"fp32": 0, "fp16": 0, "int8": 0, "other": 0}
    for layer in layers_of(text):
        for words in _formats(layer, "Outputs"):
            found[type_of(words.lower())] += 1
    return found if sum(found.values()) else {}


def tactics_sha256(text: str) -> Optional[str]:
    """A digest of the layers in order: name, kind, tactic and formats; of bare names where there is no more.

    Two engines with the same digest run the same kernels in the same order, as far as the inspector tells. None where
    it names no layer. What changes from build to build without changing a kernel (addresses, streams) is left out.
    """
    found = [_tactic(layer) for layer in layers_of(text)]
    return digest(found) if found else None


def _tactic(layer: Any) -> Any:
    if not isinstance(layer, dict):
        return str(layer)
    names = ("Name", "LayerType", "TacticName", "TacticValue")
    told: List[Any] = [str(layer.get(name, "")) for name in names]
    return [*told, _formats(layer, "Inputs"), _formats(layer, "Outputs")]


def _formats(layer: Any, side: str) -> List[str]:
    tensors = layer.get(side) if isinstance(layer, dict) else None
    if not isinstance(tensors, list):
        return []
    return [str(tensor.get("Format/Datatype", "")) for tensor in tensors if isinstance(tensor, dict)]


def type_of(words: str) -> str:
    """`Channel major FP16 format where channel % 8 == 0` is fp16."""
    for name, marks in (("int8", ("int8",)), ("fp16", ("fp16", "half")), ("fp32", ("fp32", "float"))):
        if any(mark in words for mark in marks):
            return name
    return "other"


def held_precision(flags: Dict[str, Any], formats: Dict[str, int], onnx: Dict[str, Any], strong: bool = False) -> str:
    """The precision that an engine runs in: by the builder's flags, or by the graph of a strongly typed network.

    Raises:
        PrecisionNotHeld: the flags allow a precision that no tensor between layers has, or one has what they forbid.
    """
    # TensorRT 11 has no such flags at all.
    by_graph = strong or flags["int8"] is None
    int8 = flags["int8"] or (by_graph and onnx["quantize"] > 0)
    fp16 = flags["fp16"] or (by_graph and onnx.get("compute_half", 0) > 0)
    wanted = "int8" if int8 else "fp16" if fp16 else "tf32" if flags["tf32"] else "fp32"
    if not formats:
        return wanted
    if wanted in ("fp16", "int8") and not formats[wanted]:
        raise PrecisionNotHeld(
            "TensorRT built an engine for {} and no tensor in it is {}: {}".format(wanted, wanted, formats),
            "The builder found fp32 faster, or no such kernel for this model: measure it in fp32.",
        )
    if wanted in ("fp32", "tf32") and (formats["fp16"] or formats["int8"]):
        raise PrecisionNotHeld("the engine was to run in {} and holds other tensors: {}".format(wanted, formats))
    return wanted
