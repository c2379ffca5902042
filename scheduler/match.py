# SPDX-License-Identifier: Apache-2.0
"""Cases x devices -> jobs and refusals. Pure, and independent of the order in which devices are listed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from farm.broker.register import DeviceEntry
from farm.contract.canonical import digest
from farm.contract.catalogue import WORKFLOWS
from farm.contract.fit import unfit
from farm.contract.job import JobSpec, Protocol, Target
from farm.contract.names import slug
from farm.devices import Refusal, Selector, choose_stack, selector_matches
from farm.sweep import SweepSpec
from scheduler.expand import Case, job_id, make_job

_SHOWN = 10


@dataclass(frozen=True)
class Place:
    """Where a case is asked to run: a device, or a class of which `devices` were selected."""

    target: Target
    devices: tuple[DeviceEntry, ...]
    whole: bool

    @property
    def key(self) -> str:
        """`cls:X` or `dev:Y`."""
        return self.target.key


@dataclass(frozen=True)
class Refused:
    """A case that cannot run where it was asked to, with the job that it would have been."""

    case: Case
    target: Target
    refusal: Refusal
    job: JobSpec

    @property
    def reason(self) -> str:
        """Why not."""
        return self.refusal.reason

    @property
    def hint(self) -> str:
        """What would change that."""
        return self.refusal.hint


@dataclass(frozen=True)
class Plan:
    """What submitting a sweep does. `notes` are for people.

    `places` and `narrowed` (job id -> the one device of a class that can run it) are enough to make the jobs again.
    `recorded` are ids of jobs that have their results already.
    """

    sweep_id: str
    name: str
    jobs: tuple[JobSpec, ...]
    refusals: tuple[Refused, ...]
    notes: tuple[str, ...]
    places: tuple[str, ...]
    narrowed: dict[str, str] = field(default_factory=dict)
    recorded: frozenset[str] = frozenset()


def working(entry: DeviceEntry) -> bool:
    """Whether a device takes jobs now."""
    return entry.takes_jobs


def match(spec: SweepSpec, cases: Sequence[Case], entries: Sequence[DeviceEntry]) -> Plan:
    """Give every case a job at each place its sweep asks for, or a refusal that says why not.

    The devices of a class share its jobs. Where only some of a class were selected, or only some have the libraries,
    a job is bound to one of those; its id stays that of the class, so that submitting again adds nothing.
    """
    ordered = sorted(entries, key=lambda entry: entry.device_id)
    places, unmatched = find_places(spec.devices, ordered)
    jobs: list[JobSpec] = []
    refusals: list[Refused] = []
    narrowed: dict[str, str] = {}
    answers, sweep_id = _Answers(spec.stack), spec.sweep_id
    for case in cases:
        for place in places:
            made = _place(spec, sweep_id, case, place, answers)
            if isinstance(made, Refused):
                refusals.append(made)
                continue
            jobs.append(made)
            if made.target != place.target:
                narrowed[made.job_id] = str(made.target.device_id)
    refusals += _unmatched(spec, cases, unmatched, ordered)
    return Plan(
        sweep_id=sweep_id,
        name=spec.name,
        jobs=tuple(jobs),
        refusals=tuple(refusals),
        notes=tuple(_notes(places)),
        places=tuple(place.key for place in places),
        narrowed=narrowed,
    )


def find_places(
    selectors: Sequence[Selector] | None, entries: Sequence[DeviceEntry]
) -> tuple[list[Place], list[Selector]]:
    """The places that selectors name, each once, and the selectors that match no device. None selects every class."""
    by_class: dict[str, list[DeviceEntry]] = {}
    for entry in entries:
        by_class.setdefault(entry.announcement.device.device_class, []).append(entry)
    chosen: dict[str, dict[str, DeviceEntry]] = {}
    unmatched = []
    for selector in (Selector(),) if selectors is None else selectors:
        found = [entry for entry in entries if selector_matches(selector, entry.announcement.device)]
        if not found and selectors is not None:
            unmatched.append(selector)
        for entry in found:
            device = entry.announcement.device
            key = f"dev:{device.device_id}" if selector.device_id else f"cls:{device.device_class}"
            chosen.setdefault(key, {})[device.device_id] = entry
    return [_make_place(key, found, by_class) for key, found in chosen.items()], unmatched


def _make_place(key: str, found: Mapping[str, DeviceEntry], by_class: Mapping[str, Sequence[DeviceEntry]]) -> Place:
    devices = tuple(found[device_id] for device_id in sorted(found))
    if key.startswith("dev:"):
        return Place(Target(device_id=devices[0].device_id), devices, whole=True)
    name = key.removeprefix("cls:")
    return Place(Target(device_class=name), devices, whole=len(devices) == len(by_class[name]))


class _Answers:
    """`choose_stack`, asked once for all that it depends on: many models ask the same."""

    def __init__(self, stack: str | None) -> None:
        self._stack = stack
        self._known: dict[tuple[str, ...], Refusal | None] = {}
        self._options: dict[int, tuple[object, str]] = {}

    def refusal(self, case: Case, entry: DeviceEntry) -> Refusal | None:
        key = (case.workflow, case.precision, self._named(case), case.model.source, entry.device_id)
        if key not in self._known:
            told = entry.announcement
            answer = choose_stack(
                case.workflow, case.precision, told.device, told.stacks, case.options, case.model.source, self._stack
            )
            self._known[key] = answer if isinstance(answer, Refusal) else None
        return self._known[key]

    def _named(self, case: Case) -> str:
        """The options' digest; the cases of a sweep share them, and are asked about at every place."""
        kept = self._options.get(id(case.options))
        if kept is None or kept[0] is not case.options:
            kept = self._options[id(case.options)] = case.options, digest(case.options)
        return kept[1]


def _place(spec: SweepSpec, sweep_id: str, case: Case, place: Place, answers: _Answers) -> JobSpec | Refused:
    refusals = [
        _source_refusal(case)
        or _method_refusal(case)
        or answers.refusal(case, entry)
        or _unfit(case, spec.protocol_for(case.way), entry)
        for entry in place.devices
    ]
    able = [entry for entry, refusal in zip(place.devices, refusals, strict=True) if refusal is None]
    if not able:
        first = next(refusal for refusal in refusals if refusal is not None)
        return Refused(case, place.target, first, make_job(spec, case, place.key, place.target, sweep_id))
    if place.whole and len(able) == len(place.devices):
        return make_job(spec, case, place.key, place.target, sweep_id)
    chosen = _share(job_id(sweep_id, case, place.key), able)
    return make_job(spec, case, place.key, Target(device_id=chosen.device_id), sweep_id)


def _share(job: str, able: Sequence[DeviceEntry]) -> DeviceEntry:
    """Pick one of several devices by rendezvous hashing: evenly, and with few changes when a device joins."""
    pool = [entry for entry in able if working(entry)] or list(able)
    return min(pool, key=lambda entry: digest([job, entry.device_id]))


def _source_refusal(case: Case) -> Refusal | None:
    sources = WORKFLOWS[case.workflow].sources
    if case.model.source in sources:
        return None
    reason = f"{case.workflow} does not run models of source {case.model.source!r} ({case.model.name})"
    return Refusal("source-unsupported", reason, f"It runs: {', '.join(sources)}.")


def _unfit(case: Case, protocol: Protocol, entry: DeviceEntry) -> Refusal | None:
    info, kind = WORKFLOWS[case.workflow], entry.announcement.device.kind
    found = unfit(info, kind, case.options, protocol)
    return None if found is None else Refusal(*found)


def _method_refusal(case: Case) -> Refusal | None:
    methods = WORKFLOWS[case.workflow].calibration_methods
    if case.calibration is None or case.calibration.method in methods:
        return None
    reason = f"{case.workflow} has no calibration method {case.calibration.method!r}"
    return Refusal("calibration-unsupported", reason, f"It has: {', '.join(methods)}.")


def _unmatched(
    spec: SweepSpec, cases: Sequence[Case], selectors: Sequence[Selector], entries: Sequence[DeviceEntry]
) -> Iterator[Refused]:
    seen = set()
    sweep_id = spec.sweep_id
    for selector in selectors:
        target = _nominal(selector)
        if target.key in seen:
            continue
        seen.add(target.key)
        refusal = _no_device(selector, entries)
        for case in cases:
            yield Refused(case, target, refusal, make_job(spec, case, target.key, target, sweep_id))


def _nominal(selector: Selector) -> Target:
    """A target to file a refusal under when no device gives it a class."""
    if selector.device_id:
        return Target(device_id=selector.device_id)
    facts = selector.kind or selector.conditions
    return Target(device_class=slug(str(selector)) if facts else str(selector.device_class))


def _no_device(selector: Selector, entries: Sequence[DeviceEntry]) -> Refusal:
    known = [f"{e.device_id} (class {e.announcement.device.device_class})" for e in entries[:_SHOWN]]
    more = [f"and {len(entries) - _SHOWN} more"] if len(entries) > _SHOWN else []
    reason = f"no device matches `{selector}`; known: {', '.join(known + more) or 'none'}"
    stated = {fact for entry in entries for fact in entry.announcement.device.facts}
    unknown = sorted({c.fact for c in selector.conditions} - stated)
    if unknown:
        return Refusal("no-such-device", f"{reason}; no device states {', '.join(unknown)}", _facts_hint(stated))
    return Refusal("no-such-device", reason, "Correct `devices`, or start a worker there and submit the sweep again.")


def _facts_hint(stated: set[str]) -> str:
    return f"Facts that devices state: {', '.join(sorted(stated)) or 'none'}. `farm devices` shows them."


def _notes(places: Sequence[Place]) -> Iterator[str]:
    """What of the places does not take jobs now: those jobs wait, or the rest of the class takes them."""
    for place in places:
        idle = [entry for entry in place.devices if not working(entry)]
        for entry in idle:
            then = f"jobs for {place.key} wait" if len(idle) == len(place.devices) else "others of its class work on"
            yield f"{entry.device_id} is {entry.standing}; {then}"
