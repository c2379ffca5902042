# SPDX-License-Identifier: Apache-2.0
"""What changed, from a night's events: sentences for the top of a report, and a section of tables. Pure.

Events with one cause on one device are one group, and one sentence: ten models that a new library made slower are one
thing that happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

from farm.contract.metrics import METRICS
from farm.history import coverage
from farm.history.model import Confirmation, Event, State
from farm.history.tracked import LINEAR, TRACKED
from farm.report import text
from farm.report.document import Section, Sentence
from farm.report.table import Cell, Column, Group, Row, Table

#: Kinds of sentences and titles of tables, in the order in which people read them.
TITLES = {
    "slower": "Became worse",
    "broke": "Broke",
    "missing": "Missing",
    "better": "Became better",
    "settled": "Accepted, fixed or dismissed",
}
#: With more members than this a sentence counts them.
MOST_NAMED = 3

#: What a metric's rise and fall are called, where its name alone would not be how people say it.
_WORDS = {
    "latency_ms": ("became {} slower", "became {} faster"),
    "device_latency_ms": ("became {} slower on the device", "became {} faster on the device"),
    "throughput_per_s": ("does {} more inputs a second", "does {} fewer inputs a second"),
    "build_s": ("takes {} longer to build", "builds {} faster"),
    "engine_bytes": ("has an engine {} larger", "has an engine {} smaller"),
    "gpu_memory_peak_bytes": ("takes {} more device memory", "takes {} less device memory"),
    "host_rss_peak_bytes": ("takes {} more host memory", "takes {} less host memory"),
    "memory_available_drop_bytes": ("takes {} more of the shared memory", "takes {} less of the shared memory"),
    "top1": ("has a top-1 accuracy {} higher", "has a top-1 accuracy {} lower"),
    "top5": ("has a top-5 accuracy {} higher", "has a top-5 accuracy {} lower"),
    "fallback_node_share": ("has {} more of its nodes outside of the engine", "has {} fewer outside of the engine"),
}
#: Above and below in a table's column.
_SHORT = {
    "latency_ms": "latency", "throughput_per_s": "throughput", "build_s": "build time", "engine_bytes": "engine size",
    "gpu_memory_peak_bytes": "device memory", "host_rss_peak_bytes": "host memory",
    "memory_available_drop_bytes": "shared memory", "top1": "top-1 accuracy", "top5": "top-5 accuracy",
    "mismatch_1e-3_pct": "mismatch at 1e-3", "fallback_node_share": "share outside of the engine",
}  # fmt: skip

Page = Callable[[str], str]


def changes_section(events: Iterable[Event], names: Mapping[str, str], page: Page = lambda _key: "") -> Section:
    """The section "What changed": a table for each of `TITLES` that any event falls under.

    Args:
        names: what a series is called, by its key; a series without a name is called by its key.
        page: where a series' own page is, relative to this one, by its key; empty for none.
    """
    found = _by_kind(events)
    tables = [_table(kind, of, names, page) for kind, of in found.items() if of]
    intro = "" if tables else "Nothing changed, and nothing waits to be settled."
    return Section("changes", "What changed", intro, tuple(tables))


def change_sentences(events: Iterable[Event], names: Mapping[str, str]) -> list[Sentence]:
    """The summary: one sentence for each group of events, what got worse first.

    A throughput that went with its latency says the same thing twice: it is in the table alone.
    """
    known = list(events)
    timed = {_twin(event) for event in known if event.metric == "latency_ms"}
    events = [event for event in known if event.metric != "throughput_per_s" or _twin(event) not in timed]
    found = []
    for kind, of in _by_kind(events).items():
        for members in _groups(of).values():
            found.append(Sentence(kind, _sentence(kind, members, names), f"changes-{kind}"))
    return found


def _twin(event: Event) -> tuple[object, ...]:
    """What latency and throughput of one change share."""
    return (event.kind, event.state, event.worse, tuple(key.partition(":")[0] for key in event.keys))


def kind_of(event: Event) -> str:
    """Under which of `TITLES` an event falls."""
    if not event.state.is_open:
        return "settled"
    if event.kind == "coverage":
        return "missing" if event.cause and event.cause[0].endswith("missing") else "broke"
    return "slower" if event.worse else "better"


def _by_kind(events: Iterable[Event]) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = {kind: [] for kind in TITLES}
    for event in sorted(events, key=lambda e: (e.kind != "device", -abs(e.change), e.event_id)):
        found[kind_of(event)].append(event)
    return found


def _groups(events: Sequence[Event]) -> dict[tuple[str, ...], list[Event]]:
    found: dict[tuple[str, ...], list[Event]] = {}
    for event in events:
        # An event of a whole device is news of its own, whatever else has the same cause.
        alone = event.event_id if event.kind == "device" or not event.group else ""
        # One sentence says one thing: slower and more memory are two, though one library brought both.
        found.setdefault((event.group, event.metric, event.state, alone), []).append(event)
    return found


def _sentence(kind: str, members: Sequence[Event], names: Mapping[str, str]) -> str:
    first = members[0]
    if kind == "settled":
        return f"{_subjects(members, names)}: {_moved(members)}; {_settled(first)}."
    if first.kind == "coverage":
        why = f": {first.cause[1].rstrip('.')}" if len(first.cause) > 1 else ""
        return f"{_subjects(members, names)}: {_outcome(first)}, since {first.since}{why}."
    said = f"{_subjects(members, names)} {_moved(members)}"
    known = _known(first) if len(members) == 1 else _states(members)
    with_cause = f", with {text.listed(first.cause)}" if first.cause else ""
    return f"{said} ({known}), since {first.since}{with_cause}."


def _subjects(members: Sequence[Event], names: Mapping[str, str]) -> str:
    first = members[0]
    if first.kind == "device":
        return f"{first.device} as a whole ({text.plural(len(first.keys), 'series', 'series')})"
    called = list(dict.fromkeys(name(event, names) for event in members))
    if len(called) > MOST_NAMED:
        return f"{text.plural(len(called), 'series', 'series')} on {first.device}, among them {called[0]},"
    return f"{text.listed(called)} on {first.device}"


def name(event: Event, names: Mapping[str, str]) -> str:
    """What an event is about, in words: the series, or the case that no longer runs."""
    if event.kind == "device":
        return "the whole device"
    if event.kind == "coverage" and not (event.keys and event.keys[0] in names):
        return coverage.subject_of(event)
    if not event.keys:
        return event.device
    called = names.get(event.keys[0], event.keys[0])
    return called if len(event.keys) == 1 else f"{called} and {len(event.keys) - 1} more"


def _moved(members: Sequence[Event]) -> str:
    """`became 12 % slower`, `became 8 to 12 % slower`; of other metrics, `has host rss bytes up by 12 %`."""
    metric, changes = members[0].metric, [event.change for event in members]
    if members[0].kind == "coverage":
        return _outcome(members[0])
    sizes = [_percent(abs(_hundred(metric) * c)) for c in sorted(changes, key=abs)]
    size = sizes[0] if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
    size += f" {_unit(metric)}"
    rose = median(changes) > 0
    if metric in _WORDS:
        return _WORDS[metric][0 if rose else 1].format(size)
    if metric not in METRICS:
        return f"moved: its {text.plain(metric)} says {size} {'more' if rose else 'less'}"
    return f"has {metric_words(metric)} {'up' if rose else 'down'} by {size}"


def metric_words(metric: str) -> str:
    """A metric as people call it: `host memory`, `top-1 accuracy`."""
    return _SHORT.get(metric, text.plain(metric))


def change_words(event: Event) -> str:
    """By how much, with sign and unit: `+12 %`, `\u22123.4 % points`; of coverage, `ok before, now failed`."""
    if event.kind == "coverage":
        return _outcome(event)
    value = _hundred(event.metric) * event.change
    return f"{'+' if value > 0 else ''}{text.number(value, 1)} {_unit(event.metric)}"


def _hundred(metric: str) -> float:
    """What a change of the metric is multiplied by to be per cent: 1 where its unit is per cent already."""
    return 1.0 if _is_linear(metric) and METRICS[metric].unit == "%" else 100.0


def _unit(metric: str) -> str:
    return "% points" if _is_linear(metric) else "%"


def _is_linear(metric: str) -> bool:
    return metric in TRACKED and TRACKED[metric].scale == LINEAR


def _percent(value: float) -> str:
    return text.number(value, 0 if value >= 10 else 1)


def _outcome(event: Event) -> str:
    """`ok before, now failed`."""
    before, arrow, now = (event.cause[0] if event.cause else "").partition(" -> ")
    return f"{before} before, now {now}" if arrow else before or text.plain(event.metric)


def _states(members: Sequence[Event]) -> str:
    counts = {state: sum(event.state is state for event in members) for state in State}
    return text.listed(f"{count} {_STATES[state]}" for state, count in counts.items() if count)


_STATES = {
    State.NEW: "not confirmed yet",
    State.CONFIRMED: "confirmed",
    State.UNCONFIRMED: "seen on enough nights, and what ran before cannot run again",
    State.ACCEPTED: "accepted",
    State.FIXED: "fixed",
    State.DISMISSED: "dismissed",
}


def _known(event: Event) -> str:
    """How sure it is: the state, and what the last measurement made to settle it found."""
    state = _STATES[event.state]
    measured = event.confirmations[-1] if event.confirmations else None
    if measured is None:
        return state
    how = "by alternate runs" if measured.how == "ab" else "by measuring again"
    said = f"{state} {how}" if event.state is State.CONFIRMED else f"{state}; measured {how[3:]}: {measured.verdict}"
    span = interval(measured)
    # A measurement tells a ratio; the change of a share is a difference.
    span += " of the value before" if span and _is_linear(event.metric) else ""
    return f"{said}, {span}" if span else said


def interval(measured: Confirmation) -> str:
    """`99 % interval +10.8 to +13.1 %` of a confirmation's ratio; empty without one."""
    if measured.low is None or measured.high is None or measured.confidence is None:
        return ""
    low, high = (text.number(100 * (end - 1), 1) for end in (measured.low, measured.high))
    signs = ["+" if end > 1 else "" for end in (measured.low, measured.high)]
    return f"{100 * measured.confidence:.3g} % interval {signs[0]}{low} to {signs[1]}{high} %"


def _settled(event: Event) -> str:
    if event.decision is not None:
        by = f" by {event.decision.by}" if event.decision.by else ""
        return f"accepted{by}: {event.decision.reason.rstrip('.')}"
    if event.state is State.FIXED:
        return f"fixed: back where it was on {event.night}"
    return _known(event) if event.state is not State.DISMISSED else "dismissed: measured again, and no change was found"


def _table(kind: str, events: Sequence[Event], names: Mapping[str, str], page: Page) -> Table:
    groups: dict[tuple[str, str], list[Row]] = {}
    for event in events:
        cause = "" if event.kind == "coverage" else text.listed(event.cause)
        groups.setdefault((event.device, cause), []).append(_row(event, names, page))
    made = tuple(
        Group(f"{device}, with {cause}" if cause else device, tuple(rows)) for (device, cause), rows in groups.items()
    )
    columns = (
        Column("Change", "%"),
        Column("Metric", numeric=False),
        Column("State", numeric=False),
        Column("Since", numeric=False),
        Column("What is known", numeric=False),
    )
    caption = (
        "A change is new over old, less one; of shares, the difference in % points. Grouped by device and by what"
        " differs between both sides. docs/regressions.md explains the states."
    )
    return Table(f"changes-{kind}", TITLES[kind], caption, "Series", columns, made, "Device, cause")


def _row(event: Event, names: Mapping[str, str], page: Page) -> Row:
    href = page(event.keys[0]) if len(event.keys) == 1 else ""
    shown = text.ABSENT if event.kind == "coverage" else change_words(event).removesuffix(" %")
    known = _outcome(event) if event.kind == "coverage" else _known(event)
    # A coverage event's notes are its name and its runs, which stand elsewhere in the row.
    more = event.cause[1:] if event.kind == "coverage" else tuple(map(text.plain, event.notes))
    decided = (_settled(event),) if event.decision is not None else ()
    cells = (
        Cell(shown, note="" if event.kind != "coverage" else "an outcome, and no number"),
        Cell(metric_words(event.metric)),
        Cell(event.state.value),
        Cell(event.since),
        Cell("; ".join((known, *decided, *more))),
    )
    return Row(name(event, names), cells, anchor=f"event-{event.event_id}", href=href)
