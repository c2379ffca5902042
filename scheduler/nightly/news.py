# SPDX-License-Identifier: Apache-2.0
"""What of a night people should hear: subjects with a state, what changed since they were last told, the message. Pure.

Only a changed state is news: a regression that stays confirmed, or a device that stays marked, is told once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from farm.history.document import Night
from farm.history.model import Event
from farm.history.naming import changed
from farm.history.tracked import TRACKED

MESSAGE_SCHEMA = 1
#: Said of what is no longer there.
OVER = "over"
#: The most lines in the text of a message; the rest is in the report.
_LINES = 20


@dataclass(frozen=True)
class Subject:
    """One thing to be told: its state, words for people, and the group that it is told with. `bad` asks for action."""

    state: str
    text: str
    group: str
    bad: bool = True


@dataclass(frozen=True)
class Change:
    """A subject whose state is another one than people were told."""

    key: str
    before: str
    after: str
    text: str
    group: str
    bad: bool


def subjects(night: Night, names: Mapping[str, str]) -> dict[str, Subject]:
    """Everything about a night that has a state, by a key that stays the same from night to night.

    `names` says what each event is about, by its id.
    """
    run = night.run
    found: dict[str, Subject] = {}
    for event in night.events:
        found[f"event:{event.event_id}"] = Subject(
            event.state, _event_text(event, names), _group(event), _is_bad(event)
        )
    for device, summary in _shifted(run).items():
        found[f"canary:{device}"] = Subject("shifted", f"canary of {device}: {summary}", f"device {device}")
    for row in run.get("sweeps", []):
        if row.get("problem"):
            found[f"sweep:{row['path']}"] = Subject("not submitted", f"{row['path']}: {row['problem']}", "sweeps")
    for sweep, outcomes in run.get("unsound", {}).items():
        text = f"{sweep}: some runs {', '.join(outcomes)}"
        found[f"runs:{sweep}"] = Subject(", ".join(outcomes), text, "runs")
    if run.get("missing"):
        text = f"{len(run['missing'])} jobs have no result: {_reasons(run['missing'])}"
        found["missing"] = Subject("missing", text, "runs")
    for name, facts in run.get("steps", {}).items():
        if facts.get("problem"):
            said = name.replace("_", " ")
            found[f"step:{name}"] = Subject("failed", f"{said}: {facts['problem']}", "the nightly itself")
    for name in run.get("missed", []):
        found[f"missed:{name}"] = Subject("missed", f"the night {name} was missed", "the nightly itself")
    return found


def changes(before: Mapping[str, str], now: Mapping[str, Subject]) -> list[Change]:
    """Subjects whose state changed, the bad ones first. What is gone is over; that a night was missed stays so."""
    found = [
        Change(key, before.get(key, ""), subject.state, subject.text, subject.group, subject.bad)
        for key, subject in now.items()
        if before.get(key) != subject.state
    ]
    for key, state in before.items():
        if key not in now and not key.startswith(("missed:", "event:")):
            found.append(Change(key, state, OVER, f"no longer {state}: {key.partition(':')[2] or key}", "over", False))
    return sorted(found, key=lambda change: (not change.bad, change.group, change.key))


def message(night: Night, now: Mapping[str, Subject], found: list[Change], link: str) -> dict[str, Any]:
    """What is posted, mailed and filed; docs/nightly.md has the schema. `text` is all that a chat needs."""
    bad = sum(change.bad for change in found)
    head = f"Inferfarm night {night.night}: {headline(night, now)}"
    groups = {change.group: [c for c in found if c.group == change.group] for change in found}
    lines = [f"{group}:\n" + "\n".join(f"- {_line(c)}" for c in members) for group, members in groups.items()]
    body = _shortened("\n".join(lines))
    return {
        "schema": MESSAGE_SCHEMA,
        "kind": "inferfarm.night",
        "night": night.night,
        "state": "attention" if bad else "good news",
        "link": link,
        "text": "\n".join(filter(None, [head, body, link])),
        "counts": {"records": sum(night.run.get("outcomes", {}).values()), **night.run.get("outcomes", {})},
        "groups": [
            {
                "group": group,
                "changes": [
                    {"subject": c.key, "before": c.before, "after": c.after, "text": c.text, "bad": c.bad}
                    for c in members
                ],
            }
            for group, members in groups.items()
        ],
    }


def headline(night: Night, now: Mapping[str, Subject]) -> str:
    """`2 things need attention; 118 records, 112 ok`."""
    bad = sum(subject.bad for subject in now.values())
    outcomes = night.run.get("outcomes", {})
    words = (
        "nothing needs attention"
        if not bad
        else "1 thing needs attention"
        if bad == 1
        else f"{bad} things need attention"
    )
    return f"{words}; {sum(outcomes.values())} records, {outcomes.get('ok', 0)} ok"


def _line(change: Change) -> str:
    was = f", before: {change.before}" if change.before else ""
    return f"[{change.after}] {change.text}{was}"


def _shortened(text: str) -> str:
    lines = text.splitlines()
    if len(lines) <= _LINES:
        return text
    return "\n".join([*lines[:_LINES], f"... and {len(lines) - _LINES} lines more, in the report"])


def _shifted(run: Mapping[str, Any]) -> dict[str, str]:
    """Devices whose last canary of the night marks them."""
    found: dict[str, str] = {}
    for step in ("canaries_first", "canaries_last"):
        for device, said in run.get("steps", {}).get(step, {}).get("said", {}).items():
            found.pop(device, None)
            if said.get("shifted"):
                found[device] = str(said.get("summary", ""))
    return found


def _event_text(event: Event, names: Mapping[str, str]) -> str:
    """`resnet18/onnx_tensorrt/fp16 b8 on lab1-gpu: latency_ms +12.0 % worse since 2026-11-21; torch 2.8.0 -> 2.9.0`."""
    what = names.get(event.event_id) or ", ".join(event.keys)
    on = " on ".join(filter(None, (what, event.device)))
    words = changed(event)
    metric = f"{event.metric} " if event.metric in TRACKED else ""
    more = [*(cause for cause in event.cause if cause != words), *event.notes]
    return f"{on}: {metric}{words} since {event.since}" + "".join(f"; {word}" for word in more)


def _group(event: Event) -> str:
    """What events of one cause on a device are told under."""
    if event.kind == "device":
        return f"device {event.device}"
    return f"{event.device}: {', '.join(event.cause)}" if event.cause else f"{event.device}, since {event.since}"


def _is_bad(event: Event) -> bool:
    return event.worse and event.state.is_open


def _reasons(missing: Mapping[str, Mapping[str, str]]) -> str:
    counts: dict[str, int] = {}
    for facts in missing.values():
        counts[facts["reason"]] = counts.get(facts["reason"], 0) + 1
    return "; ".join(f"{count} since {reason}" for reason, count in sorted(counts.items()))
