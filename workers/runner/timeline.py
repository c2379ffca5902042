# SPDX-License-Identifier: Apache-2.0
"""The runner's part of a timeline: a few inferences on CLOCK_MONOTONIC, with operators and kernels on the same axis.

torch.profiler has a clock of its own, which differs from version to version. Markers tell how it stands to the
runner's: an operator begins between two readings of CLOCK_MONOTONIC, so the offset lies in what all pairs share.
"""

import json
import os
import warnings
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from farm.contract.canonical import sha256_file
from farm.contract.layers import TIMELINE_PART
from farm.contract.run import ArtifactFile
from workers.runner import measure
from workers.runner.control import Control, write_json
from workers.workflows.base import Workflow

PART_FILE = "timeline-runner.json"
TIMELINE_SCHEMA = 1
#: Enough to see how one inference follows another; a trace of more is only larger.
ITERATIONS = 5
#: An operator that no model uses and that begins at once: a range of torch.profiler's own takes 0.1 ms to begin.
_MARK = "aten::signbit"
_MARKS = 5
_KEPT = ("cpu_op", "user_annotation", "kernel", "gpu_memcpy", "gpu_memset", "cuda_runtime", "cuda_driver")
_MOST_EVENTS = 50_000

#: A marker: the readings in ns right before and right after it began, and when the trace says it did.
Marker = Tuple[int, int, float]


def take(control: Control, workflow: Workflow, inputs: Sequence[Any]) -> ArtifactFile:
    """Run a few inferences under torch.profiler, where this stack has torch, and keep what is known of them."""
    spans: List[Dict[str, Any]] = []
    readings: List[Tuple[int, int]] = []
    clocks = [measure.other_clocks()]
    torch, on_gpu = _torch(), workflow.ctx.request.device.kind == "gpu"
    trace = None
    if torch is None:
        _infer(workflow, inputs, spans, lambda: None)
    else:
        trace = _profiled(
            torch, on_gpu, control.directory, readings, lambda mark: _infer(workflow, inputs, spans, mark)
        )
    clocks.append(measure.other_clocks())
    events, offset = placed(trace or [], readings)
    part = {
        "schema": TIMELINE_SCHEMA,
        "source": None if torch is None else "torch.profiler {}".format(torch.__version__),
        "clocks": clocks,
        "offset": offset,
        "spans": spans,
        "events": events,
    }
    path = os.path.join(control.directory, PART_FILE)
    write_json(path, part)
    return ArtifactFile(TIMELINE_PART, PART_FILE, sha256_file(path), os.path.getsize(path))


def offset_of(markers: Sequence[Marker]) -> Optional[Dict[str, float]]:
    """What to add to the trace's times in ns, from its begin, to be on CLOCK_MONOTONIC; None without markers. Pure.

    Each marker bounds it from both sides. `uncertainty_ns` is half of what all of them leave open; where they leave
    nothing, since the trace counts in microseconds or the clocks drift, half of the gap.
    """
    if not markers:
        return None
    low = max(before - at for before, _, at in markers)
    high = min(after - at for _, after, at in markers)
    return {"add_ns": (low + high) / 2, "uncertainty_ns": abs(high - low) / 2, "markers": len(markers)}


def placed(
    trace: Sequence[Dict[str, Any]], readings: Sequence[Tuple[int, int]]
) -> Tuple[List[Dict[str, Any]], Optional[Dict[str, float]]]:
    """The events worth keeping, in ns of CLOCK_MONOTONIC, and the offset that put them there. Pure.

    None of them where the trace does not have all of the marks: nothing tells then which is which.
    """
    # From the trace's own begin: nanoseconds since 1970 are more than a float holds.
    base_us = min((e["ts"] for e in trace if "ts" in e), default=0)
    marks = sorted((e["ts"] - base_us) * 1e3 for e in trace if e.get("name") == _MARK and e.get("cat") == "cpu_op")
    offset = offset_of([(before, after, at) for (before, after), at in zip(readings, marks)])
    # A mark more or less, and each would be held against another's readings.
    if offset is None or len(marks) != len(readings):
        return [], None
    kept = [e for e in trace if e.get("ph") == "X" and e.get("cat") in _KEPT and e.get("name") != _MARK]
    add_ns = offset["add_ns"]
    events = [
        {
            "name": str(e["name"]),
            "cat": e["cat"],
            "start_ns": int((e["ts"] - base_us) * 1e3 + add_ns),
            "dur_ns": int(float(e.get("dur", 0)) * 1e3),
            "lane": str((e.get("args") or {}).get("stream", e.get("tid"))),
        }
        for e in kept
    ]
    return sorted(events, key=lambda e: e["start_ns"])[:_MOST_EVENTS], dict(offset, base_us=base_us)


def _infer(workflow: Workflow, inputs: Sequence[Any], spans: List[Dict[str, Any]], mark: Callable[[], None]) -> None:
    clock = measure.now_ns
    for turn in range(ITERATIONS):
        mark()
        begin = clock()
        workflow.infer(inputs[turn % len(inputs)])
        started = clock()
        workflow.synchronize()
        end = clock()
        spans.append({"name": "infer", "start_ns": begin, "dur_ns": started - begin})
        spans.append({"name": "wait", "start_ns": started, "dur_ns": end - started})


def _torch() -> Any:
    try:
        import torch
        import torch.profiler
    except ImportError:
        return None
    return torch


def _profiled(
    torch: Any,
    on_gpu: bool,
    directory: str,
    readings: List[Tuple[int, int]],
    body: Callable[[Callable[[], None]], None],
) -> List[Dict[str, Any]]:
    one, operator = torch.ones(1), torch.signbit

    def mark() -> None:
        for _ in range(_MARKS):
            before = measure.now_ns()
            operator(one)
            readings.append((before, measure.now_ns()))

    kinds = [torch.profiler.ProfilerActivity.CPU]
    if on_gpu and torch.cuda.is_available():
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.profiler.profile(activities=kinds) as profile:
            body(mark)
        path = os.path.join(directory, "tmp-trace.json")
        profile.export_chrome_trace(path)
    with open(path, encoding="utf-8") as stream:
        found: List[Dict[str, Any]] = json.load(stream)["traceEvents"]
    os.remove(path)
    return found
