# SPDX-License-Identifier: Apache-2.0
"""One run on one time axis, as Chrome's tracing and Perfetto read it: stages, host threads, device, telemetry. Pure.

Everything is on CLOCK_MONOTONIC before it comes here; the trace begins at 0 with the first of its events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from farm.contract.run import StageTime

#: Processes of the trace, in the order in which they are shown.
STAGES, HOST, DEVICE, TELEMETRY = 1, 2, 3, 4
_NAMES = {STAGES: "stages of the run", HOST: "host threads", DEVICE: "device", TELEMETRY: "telemetry"}
_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
#: What is no counter in a sample of telemetry.
_NO_COUNTER = ("ns", "schema")
PICTURE_SCHEMA = 1
#: So many spans and points are enough for a still picture.
MOST_SPANS, MOST_POINTS = 300, 120
#: Counters that the picture shows, as far as they were sampled, with what they are called.
PICTURED = ("power_instant_w", "power_usage_w", "sm_mhz", "util", "gpu_c", "load_1min", "memory_available")


def assemble(
    stages: Sequence[StageTime], part: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The trace as JSON: `traceEvents` in microseconds from the first event.

    Args:
        stages: the run's, in ns.
        part: what the runner kept (`workers.runner.timeline`): spans, events, offsets of clocks.
        samples: of telemetry, each with `ns`.
    """
    zero_ns = _zero(stages, part, samples)
    events = [*_metadata(part), *_stages(stages, zero_ns), *_host(part, zero_ns), *_device(part, zero_ns)]
    events += _counters(samples, zero_ns)
    other = {
        "monotonic_zero_ns": zero_ns,
        "clocks": part.get("clocks", []),
        "trace_offset": part.get("offset"),
        "source": part.get("source"),
    }
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": other}


def facts(part: Mapping[str, Any]) -> dict[str, Any]:
    """What the record keeps: who told, how well the clocks agree, how many events there are."""
    events = part.get("events", [])
    return {
        "source": part.get("source"),
        "offset": part.get("offset"),
        "events": len(events),
        "device_events": sum(e["cat"] in _ON_DEVICE for e in events),
    }


def picture(
    stages: Sequence[StageTime], part: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """As much of the timeline as a still picture shows, as JSON. Arguments as for `assemble`."""
    zero_ns, spans = _zero(stages, part, samples), list(part.get("spans", []))
    last = spans[-2:]  # the last inference: what begins it, and the wait
    window = (last[0]["start_ns"], last[-1]["start_ns"] + last[-1]["dur_ns"]) if last else (0, 0)
    inside = [e for e in part.get("events", []) if window[0] <= e["start_ns"] <= window[1]]
    kernels = [e for e in inside if e["cat"] in _ON_DEVICE]
    return {
        "schema": PICTURE_SCHEMA,
        "stages": [[s.name, _us(s.start_ns - zero_ns), _us(s.end_ns - s.start_ns)] for s in stages],
        "inference_us": _us(window[1] - window[0]),
        "host": _brief([*last, *(e for e in inside if e["cat"] == "cpu_op")], window[0]),
        "device": _brief(kernels, window[0]),
        "counters": {name: found for name in PICTURED if len(found := _points(samples, name, zero_ns)) > 1},
    }


def _zero(stages: Sequence[StageTime], part: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> int:
    """The first of all: telemetry begins before the runner does."""
    begins = [stage.start_ns for stage in stages] + [span["start_ns"] for span in part.get("spans", [])]
    return min([*begins, *(sample["ns"] for sample in samples)], default=0)


def _metadata(part: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for pid, name in _NAMES.items():
        yield {"ph": "M", "pid": pid, "tid": 0, "name": "process_name", "args": {"name": name}}
        yield {"ph": "M", "pid": pid, "tid": 0, "name": "process_sort_index", "args": {"sort_index": pid}}
    yield {"ph": "M", "pid": HOST, "tid": 0, "name": "thread_name", "args": {"name": "runner"}}
    for pid, word in ((HOST, "thread"), (DEVICE, "stream")):
        for tid, lane in enumerate(_lanes(part, pid), 1):
            yield {"ph": "M", "pid": pid, "tid": tid, "name": "thread_name", "args": {"name": f"{word} {lane}"}}


def _lanes(part: Mapping[str, Any], pid: int) -> list[str]:
    return list(dict.fromkeys(e["lane"] for e in part.get("events", []) if _pid(e) == pid))


def _pid(event: Mapping[str, Any]) -> int:
    return DEVICE if event["cat"] in _ON_DEVICE else HOST


def _stages(stages: Sequence[StageTime], zero_ns: int) -> Iterator[dict[str, Any]]:
    for stage in stages:
        yield _span(STAGES, 0, stage.name, "stage", stage.start_ns - zero_ns, stage.end_ns - stage.start_ns)


def _host(part: Mapping[str, Any], zero_ns: int) -> Iterator[dict[str, Any]]:
    for span in part.get("spans", []):
        yield _span(HOST, 0, span["name"], "runner", span["start_ns"] - zero_ns, span["dur_ns"])
    yield from _events(part, HOST, zero_ns)


def _device(part: Mapping[str, Any], zero_ns: int) -> Iterator[dict[str, Any]]:
    yield from _events(part, DEVICE, zero_ns)


def _events(part: Mapping[str, Any], pid: int, zero_ns: int) -> Iterator[dict[str, Any]]:
    lanes = {lane: tid for tid, lane in enumerate(_lanes(part, pid), 1)}
    for event in part.get("events", []):
        if _pid(event) == pid:
            start_ns = event["start_ns"] - zero_ns
            yield _span(pid, lanes[event["lane"]], event["name"], event["cat"], start_ns, event["dur_ns"])


def _counters(samples: Sequence[Mapping[str, Any]], zero_ns: int) -> Iterator[dict[str, Any]]:
    for sample in samples:
        for name, value in sample.items():
            if name not in _NO_COUNTER and isinstance(value, (int, float)) and not isinstance(value, bool):
                at = _us(sample["ns"] - zero_ns)
                yield {"ph": "C", "pid": TELEMETRY, "tid": 0, "name": name, "ts": at, "args": {"value": value}}


def _span(pid: int, tid: int, name: str, cat: str, start_ns: int, dur_ns: int) -> dict[str, Any]:
    return {"ph": "X", "pid": pid, "tid": tid, "name": name, "cat": cat, "ts": _us(start_ns), "dur": _us(dur_ns)}


def _us(ns: int) -> float:
    return round(ns / 1e3, 3)


def _brief(spans: Sequence[Mapping[str, Any]], zero_ns: int) -> list[list[Any]]:
    """The longest spans as [name, start, duration], in the order of their starts."""
    longest = sorted(spans, key=lambda span: -span["dur_ns"])[:MOST_SPANS]
    found = [[span["name"][:80], _us(span["start_ns"] - zero_ns), _us(span["dur_ns"])] for span in longest]
    return sorted(found, key=lambda span: float(span[1]))


def _points(samples: Sequence[Mapping[str, Any]], name: str, zero_ns: int) -> list[list[float]]:
    found = [[_us(s["ns"] - zero_ns), float(s[name])] for s in samples if name in s]
    step = -(-len(found) // MOST_POINTS) if found else 1
    return found[::step]
