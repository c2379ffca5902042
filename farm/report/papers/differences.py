# SPDX-License-Identifier: Apache-2.0
"""What differs between a paper and the records beside it: device, software, protocol, from the records. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from farm.contract.metrics import METRICS
from farm.contract.record import Record
from farm.identity import software
from farm.report import text
from farm.report.papers.cells import QUANTITIES
from farm.report.papers.published import Paper
from farm.report.papers.view import View, shape_words
from farm.report.select import Point
from farm.report.table import Cell, Column, Group, Row, Table

#: A fact's name, what the paper says, the points it is of, how a record says it, and what would be the same.
_Row = tuple[str, str, Sequence[Point], Callable[[Record], "str | None"], "Callable[[str], bool] | None"]
_METERED = ("gpu_memory_peak_bytes", "gpu_utilisation")
_CLOCKS = {
    "compute": "the host's monotonic clock around one inference until it is finished, input on the device already",
    "end_to_end": "the host's monotonic clock around one inference with the copies to and from the device",
}


@dataclass(frozen=True)
class Difference:
    """A fact as in the paper, and as in the records with counts of runs. `same` is None where words can't tell."""

    group: str
    name: str
    paper: str
    here: tuple[tuple[str, int], ...]
    same: bool | None

    @property
    def shown(self) -> str:
        """The values of the records, the most common first, with counts where there are several."""
        if len(self.here) == 1:
            return self.here[0][0]
        return "; ".join(f"{value} ({text.plural(count, 'run')})" for value, count in self.here)


def differences(view: View) -> list[Difference]:
    """Every fact that both sides can be held together by, in groups."""
    timed = view.shown
    evaluated = [p for p in view.selection.accuracy if p.ok]
    either = [*timed, *evaluated]
    if not either:
        return []
    return [*_device(view.paper, either), *_software(view.paper, either), *_protocol(view.paper, timed, evaluated)]


def _device(paper: Paper, points: Sequence[Point]) -> list[Difference]:
    names = _count(points, lambda r: r.device.name if r.device else None)
    memory = _count(points, _memory)
    own = paper.hardware["device"]
    found = [Difference("Device", "Device", own, names, _all_are(names, lambda name: own.lower() in name.lower()))]
    if memory:
        found.append(Difference("Device", "Memory", paper.hardware["memory"], memory, None))
    return found


def _memory(record: Record) -> str | None:
    size = record.device.facts.get("memory_bytes") if record.device else None
    return f"{text.number(size / 2**30)} GiB" if isinstance(size, int | float) else None


def _software(paper: Paper, points: Sequence[Point]) -> list[Difference]:
    found = [_library(name, version, points) for name, version in paper.software.items()]
    drivers = _count(points, lambda r: software(r).get("driver"))
    return [*found, Difference("Software", "driver", "not said", drivers, None)] if drivers else found


def _library(name: str, version: str, points: Sequence[Point]) -> Difference:
    here = _count(points, lambda r: _version(r, name))
    shown = here or (("not in the records", len(points)),)
    return Difference("Software", name, version, shown, _all_are(here, lambda found: _starts(found, version)))


def _version(record: Record, name: str) -> str | None:
    """The version of a library as the measuring process saw it, else as its stack has it."""
    if name == "cuda":
        features = record.stack.features if record.stack else {}
        runtimes = features.get("cuda_runtime_versions") or [features.get("torch_cuda")]
        return text.listed(str(v) for v in runtimes if v) or None
    stack = record.stack.libraries if record.stack else {}
    return software(record).get(name) or stack.get(name)


def _starts(here: str, own: str) -> bool:
    return here == own or here.startswith((own + ".", own + "+"))


def _protocol(paper: Paper, timed: Sequence[Point], evaluated: Sequence[Point]) -> list[Difference]:
    said = paper.protocol
    rows: list[_Row] = [
        ("Precision", ", ".join(f"{w.tag} {w.precision}" for w in paper.ways), timed, _precision, None),
        ("Warm-up runs", said["warm_up"], timed, _warm_up, None),
        ("Timed runs", str(said["runs"]), timed, _runs, lambda v: v == str(said["runs"])),
        ("Clock", said["clock"], timed, lambda r: _CLOCKS.get(r.job.protocol.boundary), None),
        ("Processes for each point", "1", timed, lambda r: str(len(r.processes) or 1), lambda v: v == "1"),
        ("Inputs", said["inputs"], timed, _inputs, None),
        (
            "Input shape",
            shape_words(paper.input_shape),
            [*timed, *evaluated],
            _shape,
            lambda v: v == shape_words(paper.input_shape),
        ),
        ("Weights", said["weights"], [*timed, *evaluated], lambda r: r.job.model.weights, lambda v: v == "default"),
        ("Options", "not said", timed, _options, None),
        ("Batch sizes", said["ladder"], timed, _ladder, lambda v: v.startswith(_sizes(paper.batches))),
    ]
    if "mismatch" in said:
        rows.append(("Mismatch", said["mismatch"], timed, _mismatch, None))
    if "calibration" in said:
        calibrated = [p for p in [*timed, *evaluated] if p.record.job.calibration is not None]
        rows.append(("Calibration", said["calibration"], calibrated, _calibration, None))
    if "accuracy" in said:
        rows.append(("Accuracy", said["accuracy"], evaluated, _accuracy, None))
    rows += [_metered(metric, said[metric], timed) for metric in _METERED if metric in said]
    made = []
    for name, own, points, of, same in rows:
        here = _count(points, of)
        if here:
            made.append(Difference("Protocol", name, own, here, None if same is None else _all_are(here, same)))
    return made


def _metered(metric: str, own: str, timed: Sequence[Point]) -> _Row:
    """How a quantity is read: the metric's own description, if any run has it."""
    known = [p for p in timed if p.record.metrics.get(metric) is not None]
    return (QUANTITIES[metric].name, own, known, lambda _record: METRICS[metric].description, None)


def _precision(record: Record) -> str:
    job = record.job
    return f"{job.workflow} {record.effective.get('precision', job.precision)}"


def _warm_up(record: Record) -> str:
    protocol = record.job.protocol
    rule = "until steady, from" if protocol.warmup_rule == "steady" else "at least"
    return f"{rule} {protocol.warmup_min_iterations} runs and {protocol.warmup_min_s:g} s"


def _runs(record: Record) -> str:
    protocol = record.job.protocol
    if protocol.min_iterations == protocol.max_iterations:
        return str(protocol.min_iterations)
    return f"at least {protocol.min_iterations} runs and {protocol.min_s:g} s"


def _inputs(record: Record) -> str:
    kinds = {"uniform": "random, uniform on [0, 1)"}
    protocol = record.job.protocol
    how = (
        "one input again and again"
        if protocol.inputs == "warm"
        else "inputs in turn, more than the last-level cache holds"
    )
    return f"{kinds.get(record.job.data, record.job.data)}; {how}"


def _shape(record: Record) -> str:
    return shape_words(record.job.model.input_shape)


def _options(record: Record) -> str:
    job = record.job
    said = ", ".join(f"{name}={job.options[name]}" for name in sorted(job.options)) or "none set"
    return f"{job.workflow}: {said}"


def _sizes(sizes: Iterable[int]) -> str:
    return ", ".join(str(size) for size in sizes)


def _ladder(record: Record) -> str:
    batches = record.job.batches
    until = f", until {text.listed(text.plain(u) for u in batches.until)}" if batches.until else ""
    return _sizes(batches.sizes) + until


def _mismatch(record: Record) -> str | None:
    protocol = record.job.protocol
    if not record.mismatch and "mismatch_1e-3_pct" not in record.metrics:
        return None
    rtols = text.listed(f"{rtol:g}" for rtol in protocol.rtols)
    made_by = record.effective.get("reference", "the reference")
    where = record.effective.get("reference_device", "its device")
    return f"rtol {rtols}, atol {protocol.atol:g}, against {made_by} on {where}"


def _calibration(record: Record) -> str | None:
    job = record.job
    return None if job.calibration is None else f"{job.workflow}: {job.calibration.summary} of {job.data}"


def _accuracy(record: Record) -> str | None:
    count = record.metrics.get("accuracy_samples")
    named = record.job.accuracy.dataset if record.job.accuracy else "not said"
    return f"{named}, {text.number(count, 0)} images" if count is not None else named


def _count(points: Iterable[Point], of: Callable[[Record], str | None]) -> tuple[tuple[str, int], ...]:
    found: dict[str, int] = {}
    for point in points:
        value = of(point.record)
        if value is not None:
            found[value] = found.get(value, 0) + 1
    return tuple(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _all_are(here: Sequence[tuple[str, int]], same: Callable[[str], bool]) -> bool | None:
    return all(same(value) for value, _ in here) if here else None


def difference_table(view: View, found: Sequence[Difference]) -> Table:
    """The facts side by side, with whether they are the same where that can be told."""
    words = {True: "same", False: "differs", None: "see both"}
    groups: dict[str, list[Row]] = {}
    for fact in found:
        cells = (Cell(fact.paper), Cell(fact.shown), Cell(words[fact.same], muted=fact.same is not False))
        groups.setdefault(fact.group, []).append(Row(fact.name, cells))
    columns = tuple(Column(head, numeric=False) for head in ("Paper", f"Here ({view.device_class})", ""))
    caption = (
        "What the paper says of itself and what the records of this page say. Published figures are facts about the"
        " paper's device, not a bar for this one."
    )
    made = tuple(Group(title, tuple(rows)) for title, rows in groups.items())
    return Table("paper-differences", "Paper and records side by side", caption, "Fact", columns, made, "")
