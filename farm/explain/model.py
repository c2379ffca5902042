# SPDX-License-Identifier: Apache-2.0
"""One profiled run: its rows by time, what ran outside of TensorRT, whether the rows add up to what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from farm.contract.layers import BETWEEN, TENSORRT, Layer, LayerTable
from farm.contract.record import Record

#: A sum of rows this near to the unprofiled median tells where the time of a measured inference went.
CLOSE = 0.10


@dataclass(frozen=True)
class Profiled:
    """A measured point and the table of its layers."""

    record: Record
    table: LayerTable

    @property
    def name(self) -> str:
        """`resnet18/pytorch/fp32, batch 1`."""
        return f"{self.record.job.name}, batch {self.record.batch_size}"


@dataclass(frozen=True)
class Total:
    """The sum of all rows beside the unprofiled medians, in ms. None: not measured.

    `ratio` is sum over `median_ms`. `why` is empty where the two are within 10 %.
    """

    sum_ms: float
    wall_ms: float
    median_ms: float | None
    device_ms: float | None
    why: tuple[str, ...]

    @property
    def ratio(self) -> float | None:
        """The sum over the median."""
        return self.sum_ms / self.median_ms if self.median_ms else None

    @property
    def close(self) -> bool:
        """Whether the two are within 10 %."""
        return self.ratio is not None and abs(self.ratio - 1) <= CLOSE


def total_of(profiled: Profiled) -> Total:
    """The sum of a run's rows against its unprofiled median, with what explains a gap."""
    table, metrics = profiled.table, profiled.record.metrics
    medians = metrics.get("latency_ms"), metrics.get("device_latency_ms")
    found = Total(table.sum_ns / 1e6, table.wall_ns / 1e6, *medians, ())
    return found if found.close else replace(found, why=tuple(_reasons(found, profiled)))


def _reasons(total: Total, profiled: Profiled) -> Iterator[str]:
    if total.median_ms is None:
        yield "the measured run has no median latency to hold the sum against"
        return
    slowed = total.wall_ms / total.median_ms
    if slowed > 1 + CLOSE:
        yield (
            f"under the profiler an inference took {total.wall_ms:.4g} ms of wall clock, {slowed:.2f} times the "
            "measured median: its own cost, or a busier host"
        )
    elif slowed < 1 - CLOSE:
        yield f"the profiled inferences were quicker than the measured ones: {total.wall_ms:.4g} ms of wall clock"
    if total.sum_ms < total.median_ms:
        yield from _missing(total, profiled.table)
    else:
        yield from _surplus(total, profiled.table)
    whole_ms = profiled.table.whole_ns / 1e6
    if abs(whole_ms / total.sum_ms - 1) > CLOSE:
        yield (
            f"the rows' own {profiled.table.statistic}s make {total.sum_ms:.4g} ms, their sums {whole_ms:.4g} ms: "
            "the host is noisy, and strikes now one row and now another"
        )
    if profiled.record.job.protocol.scenario != "single":
        yield "the median is of several requests in flight, the profile of one"
    if profiled.record.flags:
        yield f"the measured run has flags: {', '.join(sorted({flag.name for flag in profiled.record.flags}))}"


def _missing(total: Total, table: LayerTable) -> Iterator[str]:
    device = total.device_ms
    if table.clock == "device" and device is not None and total.median_ms is not None:
        if device < total.median_ms * (1 - CLOSE):
            yield (
                f"the device was at work for {device:.4g} ms of {total.median_ms:.4g} ms: "
                "in the rest the host starts kernels and waits, which is no layer's time"
            )
        if total.sum_ms < device * (1 - CLOSE):
            yield f"the layers take {total.sum_ms:.4g} ms of the device's {device:.4g} ms: it waits between kernels"
        return
    whole_ms = table.whole_ns / 1e6
    if whole_ms < total.wall_ms * (1 - CLOSE):
        yield f"{total.wall_ms - whole_ms:.4g} ms of an inference under the profiler lie outside of all rows"


def _surplus(total: Total, table: LayerTable) -> Iterator[str]:
    rows = sum(layer.calls for layer in table.layers)
    if rows and total.median_ms is not None:
        each_us = (total.sum_ms - total.median_ms) / rows * 1e3
        yield (
            f"the surplus is {each_us:.3g} us for each of {rows:.0f} calls: what timing a call costs, "
            "or calls that ran side by side"
        )


def top(table: LayerTable, count: int) -> list[Layer]:
    """The rows that take most time, the longest first."""
    return sorted(table.layers, key=lambda layer: -layer.time_ns)[:count]


def outside_tensorrt(table: LayerTable) -> float | None:
    """The share of the rows' time that something else than TensorRT took; None where no row is TensorRT's."""
    if not any(layer.place == TENSORRT for layer in table.layers):
        return None
    layers = [layer for layer in table.layers if layer.place != BETWEEN]
    total = sum(layer.time_ns for layer in layers) or 1.0
    return sum(layer.time_ns for layer in layers if layer.place != TENSORRT) / total
