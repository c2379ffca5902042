# SPDX-License-Identifier: Apache-2.0
"""What stands for before and what for now when a change is settled by a measurement. Pure: records in, answer out.

files    the same software, other prepared files (an engine, a quantised model): each side with its own, pinned
stack    other libraries, and a stack with the ones of before is still on the device: each side on its stack
again    neither: what ran before cannot run again, so only what runs now is measured
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from farm.contract.device import StackInfo
from farm.contract.job import Pin
from farm.contract.record import Record
from farm.devices import Refusal, choose_stack
from farm.history.confirm import AB, AGAIN
from farm.identity import farm_code, software

#: What a job cannot choose: where one of these has changed, nothing on the device is as it was.
_HOST = ("driver", "kernel")

#: Prepared files that are no part of what runs: notes of builds, and where nodes were placed.
_NOTES = ("build_failure", "ort_profile")


@dataclass(frozen=True)
class Setup:
    """How one side runs: on which stack, with which files pinned."""

    stack: str | None = None
    pins: tuple[Pin, ...] = ()


@dataclass(frozen=True)
class Sides:
    """`how` is `ab` or `again`. `base` None: it cannot run, for the reason in `why`. `told`: what stands for before."""

    how: str
    base: Setup | None
    new: Setup
    told: str
    why: str = ""

    @property
    def by_stack(self) -> bool:
        """Whether each side makes its files itself, so that they can be built anew for each process."""
        return self.base is not None and not self.base.pins


def choose_sides(base: Sequence[Record], now: Sequence[Record], stacks: Sequence[StackInfo]) -> Sides:
    """Decide from the records of the same points before and now, and from what the device has.

    Args:
        base: the records that stand for before, one for each point of the session where there is one.
        now: tonight's, one for each point.
        stacks: as the device's worker announces them now.
    """
    old, young = base[0], now[0]
    moved = _moved(old, young)
    host = [name for name in _HOST if name in moved]
    here = Setup(young.stack.name if young.stack else None)
    if host:
        return _again(here, old, f"{_told(moved, host)}, which cannot be put back")
    if moved:
        found = _stack_of(old, young, stacks)
        if found is None:
            return _again(here, old, f"no stack of the device has the libraries of before ({_told(moved, moved)})")
        told = f"stack {found!r} of {_run(old)}: {_told(moved, moved)}"
        return Sides(AB, Setup(found), here, told + _code(old, young))
    return _by_files(base, now, here)


def _by_files(base: Sequence[Record], now: Sequence[Record], here: Setup) -> Sides:
    old, young = base[0], now[0]
    before, after = _files(base), _files(now)
    other = sorted(
        kind for kind in after if {p.sha256 for p in before.get(kind, ())} != {p.sha256 for p in after[kind]}
    )
    if not other:
        return _again(here, old, "the software and the prepared files are those of before")
    lacking = [kind for kind in other if not _covers(base, kind) or not _covers(now, kind)]
    if lacking or len(base) < len(now):
        what = ", ".join(lacking or other)
        return _again(here, old, f"another {what} runs, and that of before is not on record so that it can be pinned")
    kinds = [kind for kind in after if _covers(base, kind) and _covers(now, kind)]
    pinned = [Setup(here.stack, tuple(pin for kind in sorted(kinds) for pin in of[kind])) for of in (before, after)]
    told = f"{', '.join(other)} of {_run(old)}, pinned"
    return Sides(AB, pinned[0], pinned[1], told + _code(old, young))


def _again(here: Setup, old: Record, why: str) -> Sides:
    return Sides(AGAIN, None, here, f"the nights around {old.started_at[:10]}", why)


def _moved(old: Record, young: Record) -> dict[str, tuple[str, str]]:
    before, after = software(old), software(young)
    names = sorted(before.keys() | after.keys())
    found = {name: (before.get(name, "none"), after.get(name, "none")) for name in names}
    return {name: values for name, values in found.items() if values[0] != values[1]}


def _told(moved: dict[str, tuple[str, str]], names: Iterable[str]) -> str:
    return ", ".join(f"{name} {moved[name][0]} -> {moved[name][1]}" for name in names)


def _run(record: Record) -> str:
    return f"run {record.run_id} of {record.started_at[:10]}"


def _code(old: Record, young: Record) -> str:
    """What of the farm itself has changed: both sides run in its present version."""
    before, after = farm_code(old).get("runner_digest"), farm_code(young).get("runner_digest")
    if before == after:
        return ""
    return f"; the farm's own runner has changed too ({before} -> {after}) and is the present one on both sides"


def _stack_of(old: Record, young: Record, stacks: Sequence[StackInfo]) -> str | None:
    """The name of another stack that has what ran before, library for library."""
    now = young.stack.name if young.stack else None
    wanted = _libraries(old)
    job, device = young.job, young.device
    for stack in stacks:
        if stack.name == now or device is None or stack.python_version != software(old).get("python"):
            continue
        same = all(stack.libraries.get(name) == version for name, version in wanted.items())
        able = choose_stack(job.workflow, job.precision, device, stacks, job.options, job.model.source, stack.name)
        if wanted and same and not isinstance(able, Refusal):
            return stack.name
    return None


def _libraries(record: Record) -> dict[str, str]:
    """What the measuring process had loaded, in the versions that the stack's probe gave."""
    probed = record.stack.libraries if record.stack else {}
    loaded = record.environment.get("libraries") or probed
    return {str(name): probed.get(name, str(version)) for name, version in loaded.items()}


def _files(records: Sequence[Record]) -> dict[str, tuple[Pin, ...]]:
    """The prepared files of some records by kind, each once."""
    found: dict[str, dict[str, Pin]] = {}
    for record in records:
        for ref in record.artifacts:
            if ref.kind not in _NOTES and not ref.kind.startswith(("log", "telemetry")):
                found.setdefault(ref.kind, {}).setdefault(ref.sha256, Pin(ref.kind, ref.sha256, record.run_id))
    prepared = {ref.kind for record in records for ref in record.artifacts if ref.manifest}
    return {kind: tuple(pins.values()) for kind, pins in found.items() if kind in prepared}


def _covers(records: Sequence[Record], kind: str) -> bool:
    """Whether every record has a file of the kind that a job may pin."""
    return all(any(ref.kind == kind and ref.manifest for ref in record.artifacts) for record in records)
