# SPDX-License-Identifier: Apache-2.0
"""What must hold after any faults, checked from the store and the runners' own log. Pure: it reads nothing itself.

ended     every job ends, and what did not end well says why
alone     no two runs overlap on one device
once      exactly one record for each run, and it is of what ran
clean     no process, lock, lease, or file in a spool is left
tried     every kind of fault that was planned often enough did come
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

ENDED, ALONE, ONCE, CLEAN, TRIED = "ended", "alone", "once", "clean", "tried"
#: A kind of fault that found nothing to hurt so often, and never anything, is not looking where it should.
_VAIN = 3

#: Outcomes of runs that need not have begun.
NEVER_BEGAN = frozenset({"cancelled", "lost", "unsupported"})


@dataclass(frozen=True)
class Line:
    """One line of the execution log. `kill` lines are the suite's own: it killed that run's process."""

    event: str
    run_id: str
    job_id: str
    device: str
    execution: str
    pid: int
    monotonic_ns: int
    boot: str
    others: tuple[int, ...] = ()


@dataclass(frozen=True)
class Job:
    """A job that was submitted. `whole` is the id that a record of the job as a whole, or its preparation, has."""

    job_id: str
    run_ids: tuple[str, ...]
    whole: str


@dataclass(frozen=True)
class Fact:
    """What a record says. `execution` is the token of the process that measured, where it got so far."""

    run_id: str
    job_id: str
    outcome: str
    execution: str | None = None
    device: str | None = None
    reference: str | None = None
    ladder_stop: str | None = None


@dataclass(frozen=True)
class Violation:
    """One broken promise. `device` and `at_ns` (CLOCK_MONOTONIC) where it has a place and a time."""

    rule: str
    text: str
    device: str | None = None
    at_ns: int | None = None


@dataclass(frozen=True)
class Evidence:
    """All that is looked at. `states`: what Redis still says of jobs; `left`: what was found after the farm's end."""

    jobs: Sequence[Job]
    lines: Sequence[Line]
    facts: Sequence[Fact]
    states: Mapping[str, str] = field(default_factory=dict)
    left: Sequence[str] = ()


def check(evidence: Evidence) -> list[Violation]:
    """Every violation, those with a time first, in the order of time."""
    found = [
        *unended(evidence.jobs, evidence.facts, evidence.states),
        *overlaps(evidence.lines),
        *wrong_records(evidence.jobs, evidence.lines, evidence.facts),
        *(Violation(CLEAN, f"left behind: {what}") for what in evidence.left),
    ]
    return sorted(found, key=lambda v: (v.at_ns is None, v.at_ns or 0, v.rule, v.text))


def is_complete(job: Job, facts: Mapping[str, Fact]) -> bool:
    """Whether each of a job's points has a record, or a record says why the rest have none."""
    if job.whole in facts:
        return True
    there = [facts[run_id] for run_id in job.run_ids if run_id in facts]
    return len(there) == len(job.run_ids) or bool(there and there[-1].ladder_stop)


def unended(jobs: Iterable[Job], facts: Iterable[Fact], states: Mapping[str, str]) -> Iterator[Violation]:
    """Jobs without all their records, or that Redis still holds for unfinished, and bad ends without a reason."""
    by_run = {fact.run_id: fact for fact in facts}
    for job in jobs:
        if not is_complete(job, by_run):
            lacks = [run_id for run_id in job.run_ids if run_id not in by_run]
            state = states.get(job.job_id, "not known to Redis")
            yield Violation(ENDED, f"job {job.job_id} ({state}) has no record of {', '.join(lacks)}")
        elif states.get(job.job_id, "done") not in ("done", "failed", "cancelled", "quarantined"):
            yield Violation(ENDED, f"job {job.job_id} has its records and is still {states[job.job_id]}")
    for fact in by_run.values():
        if fact.outcome != "ok" and not fact.reference:
            yield Violation(ENDED, f"run {fact.run_id} is {fact.outcome} without a reason")


def never_injected(passed_over: Mapping[str, int], injected: Iterable[str]) -> list[Violation]:
    """The kinds of fault that a run does not tell of, although it seems to."""
    came = set(injected)
    return [
        Violation(TRIED, f"{kind}: found nothing to hurt, {count} times of {count}")
        for kind, count in sorted(passed_over.items())
        if count >= _VAIN and kind not in came
    ]


def overlaps(lines: Iterable[Line]) -> Iterator[Violation]:
    """Runs that began on a device while a process of another run there lived.

    The end of a killed run is the moment when its processes were gone, which nobody logs; so each run looks, as it
    begins, whether any process of its device lives (`others`). Of runs that ended by themselves the times must agree.
    """
    by_device: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in lines:
        if line.event in ("start", "end"):
            by_device[line.boot, line.device].append(line)
    for (_, device), own in by_device.items():
        ends = {line.execution: line.monotonic_ns for line in own if line.event == "end"}
        starts = sorted((line for line in own if line.event == "start"), key=lambda line: line.monotonic_ns)
        open_until, holder = -1, None
        for line in starts:
            if line.others:
                text = f"run {line.run_id} began on {device} beside the processes {list(line.others)}"
                yield Violation(ALONE, text, device, line.monotonic_ns)
            if holder is not None and line.monotonic_ns < open_until:
                text = f"run {line.run_id} began on {device} before {holder.run_id} had ended"
                yield Violation(ALONE, text, device, line.monotonic_ns)
            if ends.get(line.execution, -1) > open_until:
                open_until, holder = ends[line.execution], line


def wrong_records(jobs: Iterable[Job], lines: Iterable[Line], facts: Sequence[Fact]) -> Iterator[Violation]:
    """Records that are there twice, that nobody asked for, or that do not tell of what ran."""
    whole_of = {run_id: job.whole for job in jobs for run_id in (*job.run_ids, job.whole)}
    began = {line.execution: line for line in lines if line.event == "start"}
    ended = {line.execution for line in lines if line.event == "end"}
    touched = {line.run_id for line in lines if line.event in ("start", "kill")}
    for run_id, count in Counter(fact.run_id for fact in facts).items():
        if count > 1:
            yield Violation(ONCE, f"run {run_id} has {count} records")
    for token, count in Counter(fact.execution for fact in facts if fact.execution).items():
        if count > 1:
            yield Violation(ONCE, f"{count} records are of one execution, {token}")
    for fact in facts:
        for text in _wrong(fact, whole_of, began, ended, touched):
            at_ns = began[fact.execution].monotonic_ns if fact.execution in began else None
            yield Violation(ONCE, text, fact.device, at_ns)


def _wrong(
    fact: Fact, whole_of: Mapping[str, str], began: Mapping[str, Line], ended: set[str], touched: set[str]
) -> Iterator[str]:
    run = f"the record of run {fact.run_id} ({fact.outcome})"
    if fact.run_id not in whole_of:
        yield f"{run} is of no job that was submitted"
        return
    if fact.execution is not None:
        line = began.get(fact.execution)
        if line is None or line.run_id != fact.run_id or line.device != fact.device:
            yield f"{run} tells of execution {fact.execution} on {fact.device}, which was not that run there"
        elif fact.outcome == "ok" and fact.execution not in ended:
            yield f"{run} tells of execution {fact.execution}, which never ended"
    elif fact.outcome == "ok":
        yield f"{run} tells of no execution"
    if fact.outcome not in NEVER_BEGAN and not touched & {fact.run_id, whole_of[fact.run_id]}:
        yield f"{run} is of a run that never began"


def parse_log(text: str) -> tuple[list[Line], list[str]]:
    """The log's lines, and those that are none."""
    lines, damaged = [], []
    for number, raw in enumerate(text.splitlines(), 1):
        try:
            data = json.loads(raw)
            lines.append(Line(**{**_known(data), "others": tuple(data.get("others", ()))}))
        except (ValueError, TypeError, AttributeError):
            damaged.append(f"line {number} of the execution log: {raw[:80]!r}")
    return lines, damaged


def _known(data: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in data.items() if name in Line.__dataclass_fields__}
