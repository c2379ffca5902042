# SPDX-License-Identifier: Apache-2.0
"""What contexts, sessions and threads a protocol may ask of a workflow, what does not go together, and why. Pure."""

from typing import Dict, Optional, Tuple

from farm.contract.catalogue import WORKFLOWS
from farm.contract.job import Protocol
from farm.contract.workflow_info import WorkflowInfo

#: Switches of a protocol that only some workflows have, in the order in which they are named.
SWITCHES = ("contexts", "sessions", "inter_threads")

REFERENCE = "concurrency-unsupported"

_WORDS = {
    "contexts": "execution contexts of one engine",
    "sessions": "sessions of its own",
    "inter_threads": "inter-op threads",
}
#: Why a workflow has no such switch, where a reader would expect it to.
_WHY_NOT: Dict[Tuple[str, str], str] = {
    ("pytorch", "inter_threads"): "eager execution runs one operator after another, so they would do nothing",
    ("torch_compile", "sessions"): "compiled code is shared by all of a process",
    ("openvino", "sessions"): "its requests share one compiled model, and `streams` is how many there are",
    ("openvino", "inter_threads"): "it runs one operator of a request after another",
    ("onnx_tensorrt", "sessions"): "contexts are what it has for this: they share the engine's weights",
    ("onnxruntime_trt", "contexts"): "the provider gives each session one context",
}


def having(switch: str) -> Tuple[str, ...]:
    """The workflows that have a switch on some kind of device."""
    return tuple(name for name, info in WORKFLOWS.items() if switch in switches_of(info))


def switches_of(info: WorkflowInfo) -> Tuple[str, ...]:
    """The switches that a workflow has on any kind of device."""
    return tuple(s for s in SWITCHES if any(s in of_kind for of_kind in info.concurrency.values()))


def lacking(info: WorkflowInfo, kind: str, protocol: Protocol) -> Optional[Tuple[str, str]]:
    """A switch of the protocol that a workflow has not on a kind of device, with why, and the way out; or None."""
    for switch in SWITCHES:
        if getattr(protocol, switch) is not None and switch not in info.concurrency.get(kind, ()):
            message = "{} has no {} on a {}".format(info.name, _WORDS[switch], kind)
            why = _WHY_NOT.get((info.name, switch))
            able = ", ".join(having(switch))
            return message + (": " + why if why else ""), "These have them: {}.".format(able)
    return None


def disagreement(protocol: Protocol) -> Optional[Tuple[str, str]]:
    """What of streams, contexts and sessions leaves some of them idle, and the way out; None where all have work."""
    streams, contexts, sessions = protocol.streams, protocol.contexts, protocol.sessions
    if contexts is not None and contexts < streams:
        message = "a context runs one request at a time, so {} of {} streams would stay idle with contexts {}".format(
            streams - contexts, streams, contexts
        )
        return message, "Ask for as many contexts as streams, or more."
    if sessions is not None and sessions > protocol.in_flight:
        message = "{} of {} sessions would stay idle with {} in flight".format(
            sessions - protocol.in_flight, sessions, protocol.in_flight
        )
        return message, "Ask for as many streams as sessions, or more."
    return None
