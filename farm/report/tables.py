# SPDX-License-Identifier: Apache-2.0
"""The measured tables of a device class: latency, speed-up, throughput, mismatch, start-up and memory, spread. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from farm.contract.metrics import METRICS
from farm.report import stats, text
from farm.report.accuracy import accuracy_table
from farm.report.coverage import GAP_WORDS
from farm.report.rebuilds import rebuild_table
from farm.report.select import Point, Selection
from farm.report.series import Series
from farm.report.stats import Absent, Ratio
from farm.report.table import Cell, Column, Footnotes, Group, Row, Table, absent, at, number_cell, run_anchor

CellOf = Callable[[Point, Footnotes], Cell]


def latency_table(selection: Selection, device_class: str) -> Table:
    """Median latency in ms: model x workflow x precision rows, a column for each batch size."""
    shown = [p for p in selection.ok if p.series.device_class == device_class]
    about = _confidence(shown, "latency_ms", "the median")
    caption = f"Median time of one inference of the whole batch, in milliseconds{about}. Lower is better."
    return _by_batch(
        selection, device_class, ("latency", "Latency", caption, "ms"), _interval_cell("latency_ms", shown)
    )


def speed_up_table(selection: Selection, device_class: str) -> Table:
    """Speed-up over pytorch fp32: the same rows and columns as the latency table."""
    shown = [p for p in selection.ok if p.series.device_class == device_class]
    ratios = [stats.speed_up(p, selection.references(p.series)) for p in shown]
    scopes = sorted({r.scope for r in ratios if isinstance(r, Ratio) and r.scope})
    caption = (
        "Median latency of pytorch fp32 over that of this row, at the same model, batch size and device. Above 1 is"
        " faster than pytorch fp32. For models of TensorFlow it is tensorflow fp32."
    )
    if scopes:
        caption += (
            " Small figures: every ratio that the two intervals allow (at least 90 % confidence for two of 95 %),"
            f" {text.listed(scopes)}."
        )
    if any("one run" in scope for scope in scopes):
        caption += " Processes differ from one another by more than iterations of one run do."

    def cell(point: Point, notes: Footnotes) -> Cell:
        return _ratio_cell(point, stats.speed_up(point, selection.references(point.series)), notes)

    return _by_batch(selection, device_class, ("speed-up", "Speed-up over pytorch fp32", caption, "times"), cell)


def throughput_table(selection: Selection, device_class: str) -> Table:
    """Throughput in inputs/s by batch size, and the best over batch sizes."""
    shown = [p for p in selection.ok if p.series.device_class == device_class]
    caption = (
        "Inputs finished per second of wall clock in the timed stage, one batch in flight where the row names no"
        f" scenario (streams, offline){_confidence(shown, 'throughput_per_s', 'the median')}. Higher is better. The"
        " last column is the best point of the row, a flagged one only where there is no other."
    )
    about = ("throughput", "Throughput", caption, "inputs/s")
    return _by_batch(selection, device_class, about, _interval_cell("throughput_per_s", shown), best=True)


def spread_table(selection: Selection, device_class: str) -> Table:
    """The distribution of each point's samples. A percentile that its sample can't bound is a dash."""
    columns = [
        ("sample_count", "Samples", ""),
        ("latency_min_ms", "Min", "ms"),
        ("latency_p25_ms", "p25", "ms"),
        ("latency_ms", "Median", "ms"),
        ("latency_p75_ms", "p75", "ms"),
        ("latency_p90_ms", "p90", "ms"),
        ("latency_p95_ms", "p95", "ms"),
        ("latency_p99_ms", "p99", "ms"),
        ("latency_max_ms", "Max", "ms"),
        ("latency_rcv", "Robust CV", "%"),
    ]
    notes = Footnotes()
    groups = []
    several = _several([p for p in selection.ok if p.series.device_class == device_class])
    for model in selection.models(device_class):
        points = [p for s in selection.series(device_class, model) for p in selection.of(s) if p.ok and p.batch]
        rows = [_spread_row(p, [name for name, _, _ in columns], notes, several) for p in points]
        groups.append(Group(model, tuple(rows)))
    caption = (
        "All samples of each run."
        + (" Of several processes: the median of their figures; of min and max the extreme." if several else "")
        + " A percentile that the number of samples cannot bound is withheld (a dash, with the"
        " reason). Robust CV is 1.4826 times the median absolute deviation over the median. Lower is better."
    )
    heads = tuple(Column(head, unit) for _, head, unit in columns)
    heads = (Column("Processes"), *heads) if several else heads
    key = ("spread", "Spread of the latency", caption)
    return _table(device_class, key, heads, groups, notes, heading="Workflow, precision, batch", wide=True)


def mismatch_table(selection: Selection, device_class: str) -> Table:
    """How far each series' outputs are from the reference's: the worst batch size of each."""
    notes = Footnotes()
    columns = (
        Column("Not close, rtol 1e-3", "%"),
        Column("Not close, rtol 1e-4", "%"),
        Column("Top-1 agreement", "%"),
        Column("Relative L2 error, cosine similarity"),
        Column("NaN or infinite", "outputs"),
        Column("Batch sizes compared"),
    )
    groups = _series_groups(selection, device_class, lambda s: _mismatch_cells(selection.of(s), notes), once=True)
    caption = (
        "Outputs against pytorch fp32 (for an ONNX file: ONNX Runtime on a CPU; for models of TensorFlow:"
        " TensorFlow fp32 on a CPU) on the same inputs and weights, the"
        " worst batch size of each row. Not close:"
        " |test \u2212 reference| > 1e-8 + rtol \u00b7 |reference|, lower is better. Top-1 agreement: inputs whose"
        f" largest output is the reference's, higher is better.{_made_by(selection, device_class)}"
    )
    return _table(device_class, ("mismatch", "Mismatch", caption), columns, groups, notes)


#: Heading, unit, metric, which end of the ladder, how it is written.
_COSTS: tuple[tuple[str, str, str, str, Callable[[float], str]], ...] = (
    ("Build", "s", "build_s", "first", text.number),
    ("Engine file", "MiB", "engine_bytes", "first", text.mib),
    ("Load", "ms", "load_ms", "first", text.number),
    ("First inference", "ms", "first_inference_ms", "first", text.number),
    ("Peak host memory, smallest batch", "MiB", "host_rss_peak_bytes", "first", text.mib),
    ("Peak host memory, largest batch", "MiB", "host_rss_peak_bytes", "last", text.mib),
    ("CPU in use, largest batch", "cores", "cpu_utilisation", "last", text.number),
    ("Energy per input, largest batch", "J", "energy_per_input_j", "last", text.number),
)


def cost_table(selection: Selection, device_class: str) -> Table:
    """Build, load, first inference, memory, CPU and energy of each series, where any run has them."""
    ran = [p for p in selection.ok if p.series.device_class == device_class]
    used = [c for c in _COSTS if any(not isinstance(stats.value(p.record, c[2]), Absent) for p in ran)]
    notes = Footnotes()

    def cells(series: Series) -> tuple[Cell, ...]:
        points = [p for p in selection.of(series) if p.ok and p.batch is not None]
        return tuple(_cost_cell(points, metric, end, write, notes) for _, _, metric, end, write in used)

    groups = _series_groups(selection, device_class, cells, once=True)
    caption = (
        "Build: export, calibration and build of what runs, when it was made. Load and first inference: no warm-up."
        " Memory is that of the whole measuring process. From the smallest batch size that ran unless the heading says"
        " otherwise. Lower is better."
    )
    columns = tuple(Column(head, unit) for head, unit, *_ in used)
    return _table(device_class, ("costs", "Start-up and memory", caption), columns, groups, notes)


def measured_tables(selection: Selection, device_class: str) -> list[Table]:
    """All tables of one device class, in the order in which a report shows them."""
    makers = (
        latency_table, speed_up_table, throughput_table, accuracy_table, mismatch_table, cost_table, rebuild_table,
        spread_table,
    )  # fmt: skip
    tables = [make(selection, device_class) for make in makers]
    return [t for t in tables if t.columns and t.groups]


def _by_batch(
    selection: Selection, device_class: str, about: tuple[str, str, str, str], cell: CellOf, *, best: bool = False
) -> Table:
    key, title, caption, unit = about
    batches = selection.batches(device_class)
    notes = Footnotes()

    def cells(series: Series) -> tuple[Cell, ...]:
        row = [_cell_at(selection, series, batch, cell, notes) for batch in batches]
        return (*row, _best_cell(selection.of(series), notes)) if best else tuple(row)

    groups = _series_groups(selection, device_class, cells)
    columns = tuple(Column(f"Batch\u00a0{b}", unit) for b in batches)
    if best and len(batches) > 1:
        columns = (*columns, Column("Best", unit))
    elif best:
        groups = [Group(g.title, tuple(Row(r.heading, r.cells[:-1]) for r in g.rows)) for g in groups]
    return _table(device_class, (key, title, caption), columns, groups, notes)


def _cell_at(selection: Selection, series: Series, batch: int, cell: CellOf, notes: Footnotes) -> Cell:
    for point in selection.of(series):
        if batch in point.stands_for:
            return cell(point, notes) if point.ok else _not_ok_cell(point)
    for gap in selection.gaps_of(series):
        if gap.batch == batch:
            return Cell(GAP_WORDS[gap.kind], note=gap.reason, muted=True)
    return Cell()


def _not_ok_cell(point: Point) -> Cell:
    failure = point.record.failure
    reason = failure.message if failure is not None else "the record gives no reason"
    return Cell(text.plain(point.record.outcome), note=reason, anchor=run_anchor(point.record), muted=True)


def _interval_cell(metric: str, shown: Sequence[Point]) -> CellOf:
    """A metric with its interval, and with the number of processes where any point of the table has several."""
    several = _several(shown)

    def cell(point: Point, notes: Footnotes) -> Cell:
        median = stats.value(point.record, metric)
        if isinstance(median, Absent):
            return number_cell(point, median, notes)
        of = text.plural(stats.process_count(point.record), "process", "processes") if several else ""
        found = stats.interval(point.record, metric)
        if found is None:
            return number_cell(point, text.number(median), notes, sub=of)
        places = text.decimals(median)
        if found.low < found.high and text.number(found.low, places) == text.number(found.high, places):
            places += 1
        about = f"{found.confidence * 100:g} % interval, {found.method}, {found.scope}"
        sub = ", ".join(filter(None, (text.span(found.low, found.high, places), of)))
        return number_cell(point, text.number(median, places), notes, sub=sub, note=about)

    return cell


def _several(points: Iterable[Point]) -> bool:
    return any(stats.process_count(p.record) > 1 for p in points)


def _ratio_cell(point: Point, found: Ratio | Absent, notes: Footnotes) -> Cell:
    if isinstance(found, Absent):
        return replace(number_cell(point, found, notes), mark=notes.mark(point))
    if found.base is point:
        return Cell(
            "1", note="this is the reference", muted=True, mark=notes.mark(point), anchor=run_anchor(point.record)
        )
    places = text.decimals(found.value)
    sub = "" if found.low is None or found.high is None else text.span(found.low, found.high, places)
    about = f"{text.number((found.confidence or 0) * 100, 0)} % at least, {found.scope}" if sub else ""
    cell = number_cell(point, text.number(found.value, places), notes, sub=sub, note=about)
    marks = [cell.mark, notes.mark(found.base), notes.note("\u00a7", found.caveat) if found.caveat else ""]
    return replace(cell, mark=",".join(dict.fromkeys(m for m in marks if m)))


def _best_cell(points: Sequence[Point], notes: Footnotes) -> Cell:
    ran = [p for p in points if p.ok and p.batch is not None]
    found = stats.best_throughput(ran)
    if isinstance(found, Absent):
        return absent(found.reason if ran else "no point of this row ran")
    note = ""
    if found.passed_over:
        note = f"higher but flagged: {', '.join(at(p) for p in found.passed_over)}"
    return number_cell(found.point, text.number(found.value), notes, sub=at(found.point), note=note)


def _spread_row(point: Point, metrics: Sequence[str], notes: Footnotes, several: bool) -> Row:
    count = text.number(stats.process_count(point.record), 0)
    cells = [number_cell(point, count, notes)] if several else []
    for metric in metrics:
        found = stats.value(point.record, metric)
        scale = 100 if metric == "latency_rcv" else 1
        shown = (
            found if isinstance(found, Absent) else text.number(found * scale, 0 if metric == "sample_count" else None)
        )
        cells.append(number_cell(point, shown, notes))
    return Row(f"{point.series.label}, {at(point)}", _once(tuple(cells)))


def _mismatch_cells(points: Sequence[Point], notes: Footnotes) -> tuple[Cell, ...]:
    ran = [p for p in points if p.ok and p.batch is not None]
    compared = sorted(
        {p.batch for p in ran if p.batch and (p.record.mismatch or "mismatch_1e-3_pct" in p.record.metrics)}
    )
    nonfinite = [(sum(m.nonfinite_count for m in p.record.mismatch), p) for p in ran if p.record.mismatch]
    worst = max(nonfinite, key=lambda pair: (pair[0], not pair[1].doubts), default=None)
    return (
        _worst_cell(ran, "mismatch_1e-3_pct", text.percent, notes),
        _worst_cell(ran, "mismatch_1e-4_pct", text.percent, notes),
        _worst_cell(ran, "top1_agreement", lambda v: text.percent(v * 100), notes),
        _error_cell(ran, notes),
        absent("no outputs were compared") if worst is None else _count_cell(worst[1], worst[0], notes),
        Cell(", ".join(str(b) for b in compared) or text.ABSENT, muted=not compared, anchor=_first(ran, compared)),
    )


def _first(points: Sequence[Point], batches: Sequence[int]) -> str:
    """The record of the first point at one of these batch sizes."""
    return next((run_anchor(p.record) for p in points if p.batch in batches), "")


def _error_cell(points: Sequence[Point], notes: Footnotes) -> Cell:
    """The largest relative error, with the smallest cosine where records have one."""
    cell = _worst_cell(points, "relative_l2_error", lambda v: f"{v:.1e}" if 0 < v < 0.001 else text.number(v), notes)
    found = [v for p in points if not isinstance(v := stats.value(p.record, "cosine_similarity"), Absent)]
    return replace(cell, sub=f"{min(found):.6f}") if found else cell


def _made_by(selection: Selection, device_class: str) -> str:
    """What made the references that these runs were compared with, where their records say it."""
    ran = [p.record.effective for p in selection.ok if p.series.device_class == device_class]
    found = set()
    for effective in (e for e in ran if "reference_versions" in e):
        libraries = ", ".join(sorted(effective["reference_versions"].values()))
        workflow, precision = effective["reference_workflow"], effective["reference_precision"]
        found.add(f"{workflow} {precision} on {effective['reference_device']} ({libraries})")
    return f" References made by {text.listed(sorted(found))}." if found else ""


def _worst_cell(points: Sequence[Point], metric: str, write: Callable[[float], str], notes: Footnotes) -> Cell:
    known = [(v, p) for p in points if not isinstance(v := stats.value(p.record, metric), Absent)]
    if not known:
        reasons = {v.reason for p in points if isinstance(v := stats.value(p.record, metric), Absent)}
        return absent("; ".join(sorted(reasons)) or "no point of this row ran")
    pick = min if METRICS[metric].better == "higher" else max
    edge = pick(v for v, _ in known)
    worst, point = min((pair for pair in known if pair[0] == edge), key=lambda pair: bool(pair[1].doubts))
    return number_cell(point, write(worst), notes, note=at(point))


def _count_cell(point: Point, count: int, notes: Footnotes) -> Cell:
    return number_cell(point, text.number(count, 0), notes, note=at(point))


def _cost_cell(points: Sequence[Point], metric: str, end: str, write: Callable[[float], str], notes: Footnotes) -> Cell:
    known = [p for p in points if not isinstance(stats.value(p.record, metric), Absent)]
    if not known:
        reasons = {v.reason for p in points if isinstance(v := stats.value(p.record, metric), Absent)}
        return absent("; ".join(sorted(reasons)) or "no point of this row ran")
    point = known[0 if end == "first" else -1]
    found = stats.value(point.record, metric)
    sub = at(point) if point is not points[0] or end == "last" else ""
    return number_cell(point, found if isinstance(found, Absent) else write(found), notes, sub=sub, note=at(point))


def _series_groups(
    selection: Selection, device_class: str, cells: Callable[[Series], tuple[Cell, ...]], *, once: bool = False
) -> list[Group]:
    groups = []
    for model in selection.models(device_class):
        rows = tuple(Row(s.label, _once(cells(s)) if once else cells(s)) for s in selection.series(device_class, model))
        groups.append(Group(model, rows))
    return groups


def _once(cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
    """Leave a mark on the first cell of a row only: the other cells tell of the same flagged run."""
    seen: set[str] = set()
    kept = []
    for cell in cells:
        kept.append(replace(cell, mark="") if cell.mark in seen else cell)
        seen.add(cell.mark)
    return tuple(kept)


def _table(
    device_class: str,
    about: tuple[str, str, str],
    columns: Sequence[Column],
    groups: Iterable[Group],
    notes: Footnotes,
    *,
    heading: str = "Workflow, precision",
    wide: bool = False,
) -> Table:
    key, title, caption = about
    kept = tuple(g for g in groups if g.rows)
    return Table(f"{key}-{device_class}", title, caption, heading, tuple(columns), kept, "Model", notes.notes, wide)


def _confidence(points: Sequence[Point], metric: str, what: str) -> str:
    """What the small figures are: `; small figures: interval of the median, 95 % within this run`."""
    known = stats.scopes(points, metric)
    if not known:
        return ""
    said = [f"{text.listed(f'{level * 100:g}' for level in levels)} % {scope}" for scope, levels in known.items()]
    return f"; small figures: interval of {what}, {text.listed(said)}"
