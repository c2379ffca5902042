# SPDX-License-Identifier: Apache-2.0
"""When the kernels of a torch profile ran, and how long a row of them took. Pure but for reading the profile.

A library may run the parts of one operator side by side, on streams of its own (cuDNN does so in some convolutions of
fp32): their durations together are more than the time that passed.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple


class Kernel(NamedTuple):
    """One run of a kernel; `span` is its start and end on the device in ns, None where that is not known."""

    name: str
    duration_ns: float
    span: Optional[Tuple[int, int]] = None


def on_device(profile: Any) -> Dict[int, List[Kernel]]:
    """What ran on the device, by the number of the operator that launched it; empty where this torch does not tell.

    `FunctionEvent.kernels` has no starts. What torch makes it from has them, and the number that links the two: by it
    torch hangs kernels onto operators, in this order (`_parse_kineto_results` of 2.2 and 2.13).
    """
    found: Dict[int, List[Kernel]] = {}
    try:
        for event in profile.profiler.kineto_results.events():
            operator = event.linked_correlation_id()
            if operator > 0 and not str(event.device_type()).endswith("CPU"):
                start, end = span_of(event)
                found.setdefault(operator, []).append(Kernel(event.name(), end - start, (start, end)))
    except (AttributeError, TypeError, RuntimeError):
        # No documented interface: a torch that has another is worth a coarser table, not a failed run.
        return {}
    return found


def span_of(event: Any) -> Tuple[int, int]:
    """Start and end in ns of one of Kineto's events, which count in whole microseconds before torch 2.4.

    There both start and duration are cut off, so kernels that ran one after the other do not overlap by rounding.
    """
    # Whole numbers: they count from 1970, and a float of that size has steps of 256 ns.
    if hasattr(event, "start_ns"):
        return event.start_ns(), event.start_ns() + event.duration_ns()
    return event.start_us() * 1000, (event.start_us() + event.duration_us()) * 1000


def timed(kernels: Sequence[Any], spans: Sequence[Kernel]) -> List[Kernel]:
    """An operator's kernels as torch gives them, with the spans found for it where names and durations are the same."""
    plain = [Kernel(kernel.name, kernel.duration * 1e3) for kernel in kernels]
    return list(spans) if len(plain) == len(spans) and all(map(_same, plain, spans)) else plain


def _same(one: Kernel, other: Kernel) -> bool:
    # One is a difference of floats in us, the other of integers in ns.
    return one.name == other.name and abs(one.duration_ns - other.duration_ns) < 1


def told_apart(kernels: Sequence[Kernel]) -> bool:
    """Whether it is known which of them ran side by side."""
    return len(kernels) < 2 or all(kernel.span is not None for kernel in kernels)


def busy_ns(kernels: Sequence[Kernel]) -> float:
    """The time in which at least one of them ran; the sum of their durations where that is not known of all."""
    spans = sorted(kernel.span for kernel in kernels if kernel.span is not None)
    if len(spans) < len(kernels):
        return sum(kernel.duration_ns for kernel in kernels)
    busy, until = 0, 0
    for start, end in spans:
        busy += max(end - max(start, until), 0)
        until = max(until, end)
    return float(busy)


def longest(kernels: Sequence[Kernel]) -> str:
    """The name of the kernel that took most time in all."""
    times: Dict[str, float] = {}
    for kernel in kernels:
        times[kernel.name] = times.get(kernel.name, 0.0) + kernel.duration_ns
    return max(times, key=lambda name: times[name])
