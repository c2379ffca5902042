# SPDX-License-Identifier: Apache-2.0
"""Writes the made-up history as a farm would have left it: sweeps, records, canaries, re-runs, judged nights."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from farm.canary import NAME, CanaryState
from farm.canary.judge import pooled
from farm.canary.series import Point
from farm.canary.series import assess as assess_canary
from farm.contract.codec import to_json
from farm.contract.job import AccuracySpec, BatchLadder, Calibration, JobSpec, ModelSpec
from farm.contract.protocols import PROTOCOLS
from farm.contract.record import Record
from farm.demo.records import Moment, canary_record, case_of, records_of, values
from farm.demo.world import ACCURATE, BATCH, DEVICES, MODELS, NIGHTS, REFUSED, Simulated, night_name
from farm.errors import UsageError
from farm.history.confirm import confirmation
from farm.history.document import Night, encode
from farm.history.model import Confirmation
from farm.history.nights import Assessment, Wanted, assess, conclude, write
from farm.history.purpose import CONFIRMATION, PURPOSE
from farm.history.tracked import rule_for
from farm.store import Store
from farm.store.schema import encode_json
from farm.sweep import SweepSpec
from farm.sweep.spec import Exclusion, WorkflowChoice
from farm.thresholds import DEFAULTS
from scheduler.canary_points import point_of
from scheduler.expand import jobs_at

_RUN = {"simulated": True, "state": "done"}


@dataclass
class Demo:
    """What was written: how many records and confirmations, and the names of the nights."""

    root: Path
    records: int = 0
    confirmations: int = 0
    nights: list[str] = field(default_factory=list)


def write_demo(directory: Path) -> Demo:
    """Write the demo to a new or empty directory, as a store of its own.

    Raises:
        UsageError: there is something in `directory`.
        UnavailableError: it cannot be written.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} is not empty", hint="Name a directory that is not there yet.")
    store = Store(directory)
    store.create()
    return _Writer(store).write()


class _Writer:
    """One night after the other."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._done = Demo(store.root)
        self._outcomes: Counter[str] = Counter()
        self._canaries: dict[str, list[Point]] = {device.name: [] for device in DEVICES}

    def write(self) -> Demo:
        for number in range(1, NIGHTS + 1):
            self._night(number)
        return self._done

    def _night(self, number: int) -> None:
        name = night_name(number)
        self._outcomes.clear()
        sweeps = [self._measure(device, number) for device in DEVICES]
        outcomes = dict(self._outcomes)
        canaries = self._canary(number)
        run = {**_RUN, "outcomes": outcomes, "began_at": f"{name}T01:00:00+00:00"}
        self._store.nights.write(name, encode(Night(name, tuple(sweeps), run=run)))
        found = assess(self._store, name, canaries=canaries)
        made = list(self._confirmed(found, number))
        at = f"{name}T06:00:00.000000+00:00"
        write(self._store, conclude(self._store, found, made, at=at))
        self._done.confirmations += len(made)
        self._done.nights.append(name)

    def _measure(self, device: Simulated, number: int) -> str:
        """One device's sweep of the night; its id."""
        spec = _sweep(device).repeated(number)
        jobs = self._submitted(spec, device, number)
        at = Moment(number, 0, number)
        for place, job in enumerate(jobs):
            self._store_records(records_of(job, device, dataclasses.replace(at, place=place)))
        return spec.sweep_id

    def _canary(self, number: int) -> dict[str, CanaryState]:
        """Two canaries a night on each device, and what all of a device say so far."""
        found = {}
        for device in DEVICES:
            for half in (0, 1):
                spec = _canary_sweep(device).repeated(2 * number + half)
                (job,) = self._submitted(spec, device, number)
                made = canary_record(job, device, Moment(number, 100 * half, number))
                self._store_records([made])
                point = point_of(made)
                if point is not None:
                    self._canaries[device.name].append(point)
            found[device.name] = assess_canary(self._canaries[device.name], pooled([]))
        return found

    def _confirmed(self, found: Assessment, number: int) -> Iterator[Confirmation]:
        """Measure what is asked for, alternately: what ran before, and what runs now."""
        sessions: dict[str, tuple[list[Record], list[Record], tuple[str, ...]]] = {}
        for place, wanted in enumerate(found.wanted):
            series, _, metric = wanted.key.partition(":")
            if series not in sessions:
                sessions[series] = self._session(wanted, number, 200 + 20 * place)
            base, new, sweeps = sessions[series]
            rule = rule_for(metric, samples=next(iter(values(new, "accuracy_samples")), None))
            made = confirmation(wanted.trigger, found.night, values(base, metric), values(new, metric), rule)
            yield dataclasses.replace(made, sweeps=sweeps, base=f"run {wanted.base[0]}")

    def _session(self, wanted: Wanted, number: int, place: int) -> tuple[list[Record], list[Record], tuple[str, ...]]:
        now, before = (self._store.records.read(run) for run in (wanted.new[-1], wanted.base[0]))
        device = next(each for each in DEVICES if each.name == wanted.device)
        as_of = next(i for i in range(1, NIGHTS + 1) if before.started_at.startswith(night_name(i)))
        sides: tuple[list[Record], list[Record]] = ([], [])
        sweeps = []
        for turn in range(2 * int(DEFAULTS["history_processes"])):
            side = (0, 1, 1, 0)[turn % 4]
            model, workflow, precision = case_of(now.job)
            spec = SweepSpec(
                name=f"{now.job.sweep_name}.confirm-{('base', 'new')[side]}",
                protocol=now.job.protocol,
                models=(ModelSpec(model),),
                workflows=(WorkflowChoice(workflow),),
                precisions=(precision,),
                batches=now.job.batches,
                accuracy=now.job.accuracy,
                again=100 * number + place + turn,
            )
            (job,) = self._submitted(spec, device, number, purpose=CONFIRMATION)
            made = records_of(job, device, Moment(number, place + turn, as_of if side == 0 else number, seed=1 + turn))
            self._store_records(made)
            sides[side].extend(made)
            sweeps.append(spec.sweep_id)
        return *sides, tuple(sweeps)

    def _submitted(self, spec: SweepSpec, device: Simulated, number: int, purpose: str = "") -> list[JobSpec]:
        """Store the sweep's document; return its jobs on the device."""
        places = [f"dev:{device.name}"]
        at = Moment(number, 0, number).started.timestamp()
        told = {"places": places, "narrowed": {}, "submitted_at": at, "simulated": True}
        document = spec.document() | told | ({PURPOSE: purpose} if purpose else {})
        _put(self._store.sweeps.path(spec.sweep_id), encode_json(document))
        jobs = list(jobs_at(spec, places, {}))
        return [
            job if case_of(job) == ACCURATE or not job.accuracy else dataclasses.replace(job, accuracy=None)
            for job in jobs
        ]

    def _store_records(self, records: Iterable[Record]) -> None:
        for record in records:
            day, by_run = self._store.records.day_path(record), self._store.records.path(record.run_id)
            _put(day, encode_json(to_json(record)))
            by_run.parent.mkdir(exist_ok=True)
            os.link(day, by_run)
            self._done.records += 1
            self._outcomes[record.outcome.value] += 1


def _put(path: Path, data: bytes) -> None:
    """Write without flushing to the disk, unlike a store: a demo that a power cut damages is made again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _sweep(device: Simulated) -> SweepSpec:
    ways = tuple(dict.fromkeys(workflow for workflow, _ in device.ways))
    precisions = tuple(dict.fromkeys(precision for _, precision in device.ways))
    refused = REFUSED[1] in ways
    wanted = {*device.ways, *([REFUSED[1:]] if refused else [])}
    precisions = (*precisions, REFUSED[2]) if refused else precisions
    return SweepSpec(
        name=f"demo-{device.info.device_class}",
        protocol=PROTOCOLS["quick"],
        models=tuple(ModelSpec(name) for name in MODELS),
        workflows=tuple(WorkflowChoice(name) for name in ways),
        precisions=precisions,
        batches=BatchLadder((BATCH,)),
        calibrations=(Calibration(),) if refused else (),
        accuracy=AccuracySpec("imagenet", path="/simulated/imagenet") if ACCURATE[1] in ways else None,
        exclude=tuple(
            Exclusion(model, workflow, precision)
            for model in MODELS
            for workflow in ways
            for precision in precisions
            if (workflow, precision) not in wanted or (precision == REFUSED[2] and model != REFUSED[0])
        ),
    )


def _canary_sweep(device: Simulated) -> SweepSpec:
    protocol = dataclasses.replace(PROTOCOLS["quick"], name=NAME)
    return SweepSpec(
        name=NAME,
        protocol=protocol,
        models=(ModelSpec("squeezenet1_1"),),
        workflows=(WorkflowChoice(device.ways[0][0]),),
        precisions=("fp32",),
        batches=BatchLadder((BATCH,)),
    )
