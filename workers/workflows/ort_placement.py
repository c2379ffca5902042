# SPDX-License-Identifier: Apache-2.0
"""Which provider ran which node, from ONNX Runtime's profile of one run. Pure: the profile's JSON in, counts out."""

import json
from typing import Any, Dict, List, Optional

from workers.workflows.errors import ProviderFellBack, WorkflowError

#: Put in by ONNX Runtime between devices: no nodes of the model.
_COPIES = ("MemcpyFromHost", "MemcpyToHost")
_COMPUTE = ("Conv", "FusedConv", "NhwcConv", "ConvTranspose", "MatMul", "FusedMatMul", "Gemm", "FusedGemm")
_INT8 = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "QGemm")


def placement(profile: str, provider: str, inside: Optional[int] = None) -> Dict[str, Any]:
    """Counts of nodes, for the record.

    `inside` is how many of the model's nodes are within the provider's fused nodes, where it fuses (TensorRT). Returns
    `nodes` (by provider), `fused` (subgraphs), `copies` between devices, `fallback_share` (0 to 1), and of convolutions
    and matrix products that are left to ONNX Runtime's own kernels `compute` and `compute_int8`.

    Raises:
        WorkflowError: the profile tells of no node.
        ProviderFellBack: none ran on the provider.
    """
    nodes = _nodes(profile)
    counts: Dict[str, int] = {}
    for node in nodes:
        if node["op_name"] not in _COPIES:
            counts[node["provider"]] = counts.get(node["provider"], 0) + 1
    if provider not in counts:
        raise ProviderFellBack(
            "no node of the model ran on {}: {}".format(provider, counts),
            "The model has no operator that it takes; the run's log says which it met.",
        )
    fused = counts[provider] if inside is not None else 0
    if inside is not None:
        counts[provider] = inside
    total = sum(counts.values())
    names = [node["op_name"] for node in nodes]
    return {
        "nodes": counts,
        "fused": fused,
        "copies": sum(name in _COPIES for name in names),
        "fallback_share": 1.0 - counts[provider] / total,
        "compute": sum(name in _COMPUTE + _INT8 for name in names),
        "compute_int8": sum(name in _INT8 for name in names),
    }


def _nodes(profile: str) -> List[Dict[str, str]]:
    """One row for each node that ran, however often it ran."""
    try:
        events = json.loads(profile)
    except ValueError as error:
        raise WorkflowError("ONNX Runtime's profile cannot be read: {}".format(error)) from error
    found = {}
    for event in events:
        arguments = event.get("args") or {}
        if (
            event.get("cat") == "Node"
            and str(event.get("name", "")).endswith("_kernel_time")
            and "provider" in arguments
        ):
            key = (arguments.get("node_index"), event["name"])
            found[key] = {"op_name": str(arguments.get("op_name")), "provider": str(arguments["provider"])}
    if not found:
        raise WorkflowError("ONNX Runtime's profile tells of no node", None, "session-failed")
    return list(found.values())
