# SPDX-License-Identifier: Apache-2.0
"""From when each stage ran to shares, utilisations, the bottleneck and latencies under load. Pure."""

import math
from statistics import median
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from farm.contract.metrics import PERCENTILE_MIN_SAMPLES
from farm.contract.pipeline import (
    PER_IMAGE,
    WORKERS,
    Bottleneck,
    LoadPoint,
    OverlappedPass,
    QueueFill,
    SerialPass,
    StageTimes,
    WorkerLoad,
)
from farm.contract.quantiles import quantile

Span = Tuple[int, int]
#: The first and the last so much of an overlapped pass: queues fill, which no later part of it does.
FILLING = 0.25
#: Of a growing queue, latency grows by the share of the images that are too many.
GROWTH = 0.02
#: Drawn gaps make queues that grow for a while by themselves: so many deviations of the gaps' sum are no overload.
_DEVIATIONS = 1.0
#: And the last third's median is to be so much above the first one's.
GROWN = 1.5
#: A worker that is busy for less is not what alone holds a pipeline up.
SATURATED = 0.85
_CALLED = {"copy_in": "copying in", "copy_out": "copying out", "infer": "inference", "device": "the device"}
#: Fewer arrivals tell nothing about growth.
_LEAST_ARRIVALS = 9


def serial_pass(spans: Mapping[str, Sequence[Span]], wall_ns: int, images: int, batch_ns: Sequence[int]) -> SerialPass:
    """The serial pass: `wall_ns` from its first to its last moment, `batch_ns` of each whole batch."""
    stages = [_stage(name, [end - begin for begin, end in found], wall_ns) for name, found in spans.items()]
    between = max(0.0, 1.0 - sum(stage.share for stage in stages))
    return SerialPass(
        images, len(batch_ns), wall_ns, images / (wall_ns / 1e9), float(median(batch_ns)), between, stages
    )


def _stage(name: str, samples: List[int], wall_ns: int) -> StageTimes:
    total = sum(samples)
    return StageTimes(
        name,
        "image" if name in PER_IMAGE else "batch",
        len(samples),
        float(median(samples)),
        _percentile(sorted(samples), 95),
        total / len(samples),
        total / wall_ns,
    )


def _percentile(ordered: Sequence[int], percent: int) -> Optional[float]:
    """None where the samples are too few to bound it, by the farm's own rule."""
    return quantile(ordered, percent / 100) if len(ordered) >= PERCENTILE_MIN_SAMPLES[percent] else None


def image_ns(serial: SerialPass, threads: Mapping[str, int]) -> Dict[str, float]:
    """The time that each worker has for one image, by the serial pass: its stages', over its threads."""
    total = {stage.name: stage.mean_ns * stage.samples for stage in serial.stages}
    return {
        name: sum(total[stage] for stage in stages) / serial.images / threads[name] for name, stages in WORKERS.items()
    }


def window(batch_done_ns: Sequence[int], start_ns: int, stop_ns: int) -> Optional[Tuple[int, int]]:
    """Between two completions: the first after the queues had time to fill, and the last before images ran out.

    None where that leaves nothing.
    """
    filled = start_ns + FILLING * (stop_ns - start_ns)
    inside = [done for done in list(batch_done_ns)[1:] if filled <= done <= stop_ns]
    return (inside[0], inside[-1]) if len(inside) > 1 else None


def busy_ns(spans: Sequence[Span], over: Tuple[int, int]) -> int:
    """How much of the window lies within the spans, all of them added up."""
    first, last = over
    return sum(max(0, min(end, last) - max(begin, first)) for begin, end in spans)


def worker_loads(
    spans: Mapping[str, Sequence[Span]], threads: Mapping[str, int], over: Tuple[int, int]
) -> List[WorkerLoad]:
    """How busy each worker was in a window."""
    found = []
    for name, stages in WORKERS.items():
        whole = (over[1] - over[0]) * threads[name]
        shares = {stage: busy_ns(spans[stage], over) / whole for stage in stages}
        found.append(WorkerLoad(name, threads[name], sum(shares.values()), shares))
    return found


def queue_fill(
    name: str, capacity: int, changes_ns: Sequence[int], lengths: Sequence[int], over: Tuple[int, int]
) -> QueueFill:
    """A queue's length over a window, each length for as long as it lasted."""
    first, last = over
    weighted = full = empty = 0
    times = [first, *(min(max(at, first), last) for at in changes_ns), last]
    for begin, end, length in zip(times, times[1:], [0, *lengths]):
        lasted = end - begin
        weighted += length * lasted
        full += lasted if length >= capacity else 0
        empty += lasted if not length else 0
    whole = last - first
    return QueueFill(name, capacity, weighted / whole, full / whole, empty / whole)


def bottleneck(loads: Sequence[WorkerLoad], serial: Optional[SerialPass], threads: Mapping[str, int]) -> Bottleneck:
    """The busiest worker, confirmed by whose stages take longest for an image in the serial pass."""
    busiest = max(loads, key=lambda load: load.utilisation)
    stage = max(busiest.stages, key=lambda name: busiest.stages[name])
    expected = None
    if serial is not None:
        times = image_ns(serial, threads)
        expected = max(times, key=lambda name: times[name])
    confirmed = None if expected is None else expected == busiest.name
    return Bottleneck(
        busiest.name, stage, busiest.utilisation, expected, confirmed, _said(busiest, stage, expected, confirmed)
    )


def _said(busiest: WorkerLoad, stage: str, expected: Optional[str], confirmed: Optional[bool]) -> str:
    worker = "the worker of the device is" if busiest.name == "device" else "its worker is"
    if busiest.threads > 1:
        worker = "its {} threads are".format(busiest.threads)
    said = "The bottleneck is {}: {} busy {:.0f} % of the time".format(
        _CALLED.get(stage, stage), worker, 100 * busiest.utilisation
    )
    if busiest.utilisation < SATURATED:
        said += ", and no worker more: handing over, and the lock that threads of Python share, take the rest"
    if confirmed is None:
        return said + "; there is no serial pass to confirm it."
    if confirmed:
        return said + ", and it takes longest for an image in the serial pass, too."
    return said + "; in the serial pass {} takes longer for an image: all at once, stages share the host.".format(
        _CALLED.get(str(expected), expected)
    )


def overlapped_pass(
    loads: List[WorkerLoad],
    queues: List[QueueFill],
    images: int,
    window_ns: int,
    serial: Optional[SerialPass],
    threads: Mapping[str, int],
) -> OverlappedPass:
    """The overlapped pass, held against the serial one where there is one. `images` were done in the window."""
    per_s = images / (window_ns / 1e9)
    found = OverlappedPass(images, window_ns, per_s, loads, queues, bottleneck(loads, serial, threads))
    if serial is None:
        return found
    bound = 1e9 / max(image_ns(serial, threads).values())
    return OverlappedPass(
        images, window_ns, per_s, loads, queues, found.bottleneck, per_s / serial.per_s, bound, per_s / bound
    )


def load_point(
    due_ns: Sequence[int],
    done: Mapping[int, int],
    batches: int,
    offered_per_s: float,
    capacity_per_s: Optional[float],
) -> LoadPoint:
    """Images at one rate: `due_ns` of all arrivals, `done` when each of those that came to their end did, by number."""
    numbers = sorted(done)
    latencies = [done[number] - due_ns[number] for number in numbers]
    unfinished = len(due_ns) - len(numbers)
    thirds = _thirds(numbers, latencies, len(due_ns))
    why = overload(due_ns, thirds, unfinished, offered_per_s, capacity_per_s)
    ordered = sorted(latencies)
    steady = bool(ordered) and not why
    wall_ns = max(done.values()) - due_ns[0] if done else 0
    return LoadPoint(
        offered_per_s=offered_per_s,
        of_capacity=offered_per_s / capacity_per_s if capacity_per_s else None,
        arrivals=len(due_ns),
        unfinished=unfinished,
        done_per_s=len(numbers) / (wall_ns / 1e9) if wall_ns > 0 else 0.0,
        batches=batches,
        mean_batch=len(numbers) / batches if batches else 0.0,
        first_ns=thirds[0],
        last_ns=thirds[1],
        p50_ns=quantile(ordered, 0.5) if steady else None,
        p95_ns=_percentile(ordered, 95) if steady else None,
        p99_ns=_percentile(ordered, 99) if steady else None,
        overloaded=why,
    )


def _thirds(numbers: Sequence[int], latencies: Sequence[int], arrivals: int) -> Tuple[Optional[float], Optional[float]]:
    """Median latency of the first and of the last third of the arrivals, of those that were done."""
    first = [took for number, took in zip(numbers, latencies) if number < arrivals / 3]
    last = [took for number, took in zip(numbers, latencies) if number >= 2 * arrivals / 3]
    return (float(median(first)) if first else None, float(median(last)) if last else None)


def overload(
    due_ns: Sequence[int],
    thirds: Tuple[Optional[float], Optional[float]],
    unfinished: int,
    offered_per_s: float,
    capacity_per_s: Optional[float],
) -> str:
    """Why a run's latencies are no steady ones: the load was more than the pipeline can take. Empty: it was not."""
    if unfinished:
        return "{} of {} images were not done when the time after the last arrival was over".format(
            unfinished, len(due_ns)
        )
    if capacity_per_s is not None and offered_per_s >= capacity_per_s:
        return "{:.4g} images/s are asked for and {:.4g} is what the pipeline can do".format(
            offered_per_s, capacity_per_s
        )
    first, last = thirds
    if first is None or last is None or len(due_ns) < _LEAST_ARRIVALS:
        return ""
    if last > GROWN * first and last - first > _growth_ns(due_ns):
        return "latency grew from {:.4g} ms in the first third to {:.4g} ms in the last".format(first / 1e6, last / 1e6)
    return ""


def _growth_ns(due_ns: Sequence[int]) -> float:
    """What latency may grow by from the first third to the last without a load that is too much.

    Of what the schedule itself draws: gaps that are alike add nothing, and gaps that are drawn at random the less, for
    the time between the thirds, the more of them there are.
    """
    gaps, whole = len(due_ns) - 1, due_ns[-1] - due_ns[0]
    squares: float = sum((late - early - whole / gaps) ** 2 for early, late in zip(due_ns, due_ns[1:]))
    return GROWTH * whole * 2 / 3 + _DEVIATIONS * math.sqrt(squares * 2 / 3)
