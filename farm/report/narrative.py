# SPDX-License-Identifier: Apache-2.0
"""The summary at the top of a report: plain sentences on what ran, what is fastest, what failed, what is doubtful."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from farm.explain.pipeline import STAGE_WORDS, pipeline_of
from farm.report import concurrency, curves, stats, text
from farm.report.coverage import counts, failures
from farm.report.document import Sentence
from farm.report.provenance import differences
from farm.report.select import Point, Selection
from farm.report.series import MADE_UP, reference_of, scenario
from farm.report.software import differing_software
from farm.report.stats import Absent, Best, Ratio
from farm.report.table import at
from farm.summary import WITHIN_RUN

#: With more of one name, the summary counts protocols instead of naming each.
MOST_PROTOCOLS = 3
#: With more models than this, over all device classes, the summary counts instead of naming each.
MOST_MODELS = 12


def summarise(selection: Selection) -> list[Sentence]:
    """The summary's sentences, in the order in which they are read."""
    if not selection.points and not selection.gaps:
        return _nothing(selection)
    found = [_what_ran(selection)]
    many = sum(len(selection.models(c)) for c in selection.classes) > MOST_MODELS
    # A study has a sentence of its own instead of one for each number of requests in flight.
    inside = curves.studied(selection)
    for device_class in selection.classes:
        if many:
            found += _most_often(selection.timed, device_class)
            continue
        for model in selection.timed.models(device_class):
            found += _fastest(selection.timed, device_class, model, inside)
    found += concurrency.sentences(selection.timed)
    found += _pipelines(selection)
    found += _not_ok(selection) + _gaps(selection) + _doubts(selection) + _unused(selection) + _differing(selection)
    return found + _stacks(selection) + _scope(selection)


def _nothing(selection: Selection) -> list[Sentence]:
    first = Sentence("ran", "There is nothing to report: no record was found for this selection.")
    hint = "If runs are still queued, wait for them (`farm status`) and make the report again."
    return [first, Sentence("ran", hint), *_unused(selection)]


def _what_ran(selection: Selection) -> Sentence:
    ok, asked = counts(selection)["ok"], selection.asked
    everything = selection.series()
    models = len({s.model for s in everything})
    ways = len({(s.workflow, s.precision) for s in everything})
    protocols = protocol_names(p.record.job.protocol.name for p in selection.points)
    times = (
        sorted(p.record.started_at for p in selection.points),
        sorted(p.record.finished_at for p in selection.points),
    )
    said = (
        f"{text.number(ok, 0)} of {text.plural(asked, 'point')} ran and {'is' if ok == 1 else 'are'} ok: "
        f"{text.plural(models, 'model')}, {text.plural(ways, 'workflow and precision', 'workflows and precisions')}, "
        f"on {text.listed(selection.classes)}"
    )
    if protocols:
        said += f"; protocol {text.listed(protocols)}; {text.moment(times[0][0])} to {text.moment(times[1][-1])}"
    if selection.superseded:
        said += f"; {text.plural(selection.superseded, 'older record')} of repeated points left out"
    return Sentence("ran", said + ".", "outcomes")


def protocol_names(names: Iterable[str]) -> list[str]:
    """Protocols by name; those with other switches of one name together where there are more than three."""
    found: dict[str, set[str]] = {}
    for name in names:
        found.setdefault(MADE_UP.sub("", name), set()).add(name)
    said = []
    for base, of in sorted(found.items()):
        several = f"{base} with {text.plural(len(of), 'set')} of switches"
        said += [several] if len(of) > MOST_PROTOCOLS else sorted(of)
    return said


def _most_often(selection: Selection, device_class: str) -> list[Sentence]:
    """For a sweep of many models: which series is fastest for how many of them, in each scenario."""
    scenarios = _scenarios(p for s in selection.series(device_class) for p in selection.of(s) if _timed(p))
    return [found for way in scenarios for found in _most_often_in(selection, device_class, way)]


def _most_often_in(selection: Selection, device_class: str, way: str) -> list[Sentence]:
    tables: dict[str, Counter[str]] = {"lowest latency": Counter(), "highest throughput": Counter()}
    for model in selection.models(device_class):
        points = [p for s in selection.series(device_class, model) for p in selection.of(s) if _timed(p)]
        ran = _scenarios(points).get(way, [])
        smallest = min((p.batch or 0 for p in ran), default=0)
        first = [p for p in ran if p.batch == smallest]
        winners = (stats.best(first, "latency_ms", lowest=True), stats.best_throughput(ran))
        for counted, winner in zip(tables.values(), winners, strict=True):
            if isinstance(winner, Best):
                counted[winner.point.series.label] += 1
    said = []
    for what, counted in tables.items():
        if counted:
            ranked = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
            shares = text.listed(f"{name} for {text.plural(count, 'model')}" for name, count in ranked)
            said.append(f"{what}: {shares}")
    where = f"{device_class}, {way}" if way else device_class
    return [Sentence("fastest", f"{where}: {'; '.join(said)}.", f"latency-{device_class}")] if said else []


def _pipelines(selection: Selection) -> list[Sentence]:
    """Which stage holds how many of the pipelines up."""
    found = [result for point in selection.pipelines if (result := pipeline_of(point.record)) is not None]
    stages = Counter(STAGE_WORDS[of.overlapped.bottleneck.stage] for of in found if of.overlapped is not None)
    if not stages:
        return []
    ranked = sorted(stages.items(), key=lambda item: (-item[1], item[0]))
    said = text.listed(f"{stage} in {text.number(count, 0)}" for stage, count in ranked)
    return [Sentence("fastest", f"The bottleneck of {text.plural(stages.total(), 'pipeline')}: {said}.", "pipeline")]


def _timed(point: Point) -> bool:
    return point.ok and point.batch is not None


def _scenarios(points: Iterable[Point]) -> dict[str, list[Point]]:
    """Points by scenario, one request in flight first: no point is ranked among those of another."""
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(scenario(point.record.job.protocol), []).append(point)
    return dict(sorted(found.items()))


def _fastest(selection: Selection, device_class: str, model: str, inside: Collection[str]) -> list[Sentence]:
    ran = [p for p in selection.ok if (p.series.device_class, p.series.model) == (device_class, model)]
    name = f"{model} on {device_class}" if len(selection.classes) > 1 else model
    if not ran:
        return [Sentence("fastest", f"{name}: no point ran.", "reasons")]
    return [
        _fastest_of(selection, of, f"{name}, {way}" if way else name, device_class)
        for way, of in _scenarios(p for p in ran if p.record.run_id not in inside).items()
    ]


def _fastest_of(selection: Selection, ran: list[Point], name: str, device_class: str) -> Sentence:
    smallest = min(p.batch or 0 for p in ran)
    first = [p for p in ran if p.batch == smallest]
    latency, most = stats.best(first, "latency_ms", lowest=True), stats.best_throughput(ran)
    said = []
    if isinstance(latency, Best):
        said.append(_lowest(selection, latency, first, smallest))
    if isinstance(most, Best):
        said.append(_highest(most, latency))
    if not said:
        return Sentence("fastest", f"{name}: no point has a latency or a throughput.", "reasons")
    return Sentence("fastest", f"{name}: {'; '.join(said)}.", f"latency-{device_class}")


def _lowest(selection: Selection, latency: Best, among: list[Point], batch: int) -> str:
    said = f"lowest latency at batch {batch} is {text.number(latency.value)} ms, with {latency.point.series.label}"
    faster = stats.speed_up(latency.point, selection.references(latency.point.series))
    if isinstance(faster, Ratio) and faster.base is not latency.point:
        said += f" ({text.number(faster.value)} times as fast as {reference_of(faster.base.series.workflow)})"
    rivals = [p for p in among if p is not latency.point and not p.doubts]
    close = [p for p in rivals if stats.overlap(p.record, latency.point.record, "latency_ms")]
    if close:
        said += f"; its interval overlaps that of {text.listed(p.series.label for p in close)}, so the order is open"
    return said + _aside(latency)


def _highest(most: Best, latency: Best | Absent) -> str:
    same = isinstance(latency, Best) and latency.point.series == most.point.series
    who = "the same" if same else most.point.series.label
    return f"highest throughput is {text.number(most.value)} inputs/s, with {who} at {at(most.point)}" + _aside(most)


def _aside(found: Best) -> str:
    said = ", a flagged point" if found.point.doubts else ""
    if found.passed_over:
        said += f", {text.plural(len(found.passed_over), 'better but flagged point')} left out"
    return said


def _not_ok(selection: Selection) -> list[Sentence]:
    found = []
    for (outcome, why), points in list(failures(selection).items())[:6]:
        who = text.listed(sorted({f"{p.series.model} {p.series.label}" for p in points}))
        count = text.plural(sum(p.count for p in points), "point")
        found.append(Sentence("not-ok", f"{count} {text.plain(outcome)}: {who}: {why.rstrip('.')}.", "reasons"))
    left = len(failures(selection)) - len(found)
    if left > 0:
        found.append(Sentence("not-ok", f"{text.plural(left, 'more reason')} in the table of refusals.", "reasons"))
    return found


def _gaps(selection: Selection) -> list[Sentence]:
    found = []
    kinds = Counter(g.kind for g in selection.gaps)
    if kinds["not_run"]:
        said = f"{text.plural(kinds['not_run'], 'point')} not run: the batch ladder had ended before."
        found.append(Sentence("not-ok", said, "reasons"))
    if kinds["missing"]:
        said = f"{text.plural(kinds['missing'], 'point')} asked for and without a record."
        found.append(Sentence("not-ok", said, "reasons"))
    return found


def _doubts(selection: Selection) -> list[Sentence]:
    doubtful = [p for p in selection.ran if p.doubts]
    if not doubtful:
        return []
    names = Counter(text.plain(f.name) for p in doubtful for f in p.doubts)
    said = text.listed(f"{name} ({count})" for name, count in sorted(names.items()))
    verb = "is" if len(doubtful) == 1 else "are"
    start = f"{text.plural(len(doubtful), 'point')} that ran {verb} flagged and marked as such"
    return [Sentence("doubt", f"{start}: {said}.", "flags"), *_shifted(doubtful)]


def _shifted(doubtful: list[Point]) -> list[Sentence]:
    """Devices whose canary had shifted, each with the last evidence: it is they that changed, and not what they ran."""
    found: dict[str, str] = {}
    for point in sorted(doubtful, key=lambda p: (p.record.finished_at, p.record.run_id)):
        for flag in point.doubts:
            if flag.name == "canary_shift" and point.record.device is not None:
                found[point.record.device.device_id] = flag.evidence
    return [Sentence("doubt", f"{device}: {why.rstrip('.')}.", "flags") for device, why in sorted(found.items())]


def _unused(selection: Selection) -> list[Sentence]:
    if not selection.problems:
        return []
    return [Sentence("doubt", f"{text.plural(len(selection.problems), 'record')} could not be used.", "unused")]


def _differing(selection: Selection) -> list[Sentence]:
    names = sorted({f"{f.section.lower()} {f.name}" for c in selection.classes for f in differences(selection, c)})
    if not names:
        return []
    shown = text.listed(names) if len(names) <= 4 else f"{text.plural(len(names), 'fact')}, among them {names[0]}"
    return [Sentence("doubt", f"Runs that stand side by side here differ in {shown}.", "differences")]


def _stacks(selection: Selection) -> list[Sentence]:
    """Names what differs between device classes besides the devices: no gap between them is the hardware's alone."""
    names = differing_software(selection) if selection.ran else ()
    if not names:
        return []
    shown = text.listed(names) if len(names) <= 6 else f"{text.listed(names[:5])} and {len(names) - 5} more"
    said = f"The devices have other versions of {shown}: what lies between them is hardware and software together."
    return [Sentence("doubt", said, "software-across")]


def _scope(selection: Selection) -> list[Sentence]:
    if not selection.ok:
        return []
    known = list(stats.scopes(selection.ok, "latency_ms"))
    if not known:
        first = "No run has an interval."
    elif known == [WITHIN_RUN]:
        first = "Intervals cover one run each; runs of the same thing differ by more."
    else:
        first = (
            f"Intervals cover what they name ({text.listed(known)}); another build or another day may differ by more."
        )
    return [Sentence("scope", f"{first} Repeat a sweep before trusting a small gap.")]
