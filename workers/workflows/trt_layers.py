# SPDX-License-Identifier: Apache-2.0
"""Time per layer of a TensorRT engine: the profiler's times joined to what the engine inspector tells."""

from typing import Any, Dict, List, Optional

from farm.contract.layers import TENSORRT
from workers.workflows.layers import LayerProfiler, Observed, Rows, Step, trt_origins
from workers.workflows.trt_inspect import layers_of, type_of

#: Types by how the inspector words that of weights.
_WEIGHTS = {"float": "fp32", "half": "fp16", "int8": "int8", "bfloat16": "bf16", "bf16": "bf16", "fp8": "fp8"}


class TrtLayers(LayerProfiler):
    """`engine` is the farm's (`trt_compat.Engine`), `inspector` what its inspector says."""

    source = "TensorRT IProfiler"
    clock = "device"

    def __init__(self, engine: Any, inspector: str) -> None:
        super().__init__()
        self._engine = engine
        self._known = known_layers(inspector)
        if not self._known:
            self.notes.append("the engine's inspector names no layer in detail: no types and no tactics")

    def observe(self, step: Step, count: int) -> List[Observed]:
        """The profiler is on the execution context itself, and is asked for its times after each step."""
        rows, told = Rows(count), self._engine.profile_layers()
        for iteration in range(count):
            step()
            for name, time_ms in told():
                rows.add(name, iteration, time_ms * 1e6, lambda name=name: row(name, self._known.get(name)))  # type: ignore[misc]
        return rows.list()


def known_layers(inspector: str) -> Dict[str, Dict[str, Any]]:
    """The layers that an inspector tells in detail, by name."""
    return {str(layer.get("Name")): layer for layer in layers_of(inspector) if isinstance(layer, dict)}


def row(name: str, layer: Optional[Dict[str, Any]]) -> Observed:
    """The row of a layer, with what the inspector says of it."""
    layer = layer or {}
    tactic = str(layer.get("TacticName") or "") or None
    kind = str(layer.get("ParameterType") or layer.get("LayerType") or "")
    # Where the inspector tells nodes at all (8.6 and later), a layer without any is none of the model's.
    told = layer.get("Metadata")
    origins = () if told == "" else trt_origins(name, str(told or ""))
    return Observed(name, kind, TENSORRT, origins, compute_type(layer), tactic)


def compute_type(layer: Dict[str, Any]) -> Optional[str]:
    """The type that a layer computes in: of its weights, else of its first input, else of its first output.

    fp32 in a kernel that is named after TF32 is tf32.
    """
    weights = layer.get("Weights")
    found: Optional[str] = None
    if isinstance(weights, dict) and weights.get("Count"):
        found = _WEIGHTS.get(str(weights.get("Type", "")).lower())
    for side in ("Inputs", "Outputs"):
        tensors = layer.get(side)
        if found is None and isinstance(tensors, list) and tensors and isinstance(tensors[0], dict):
            found = type_of(str(tensors[0].get("Format/Datatype", "")).lower())
    return "tf32" if found == "fp32" and "tf32" in str(layer.get("TacticName", "")).lower() else found
