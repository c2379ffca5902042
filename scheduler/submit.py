# SPDX-License-Identifier: Apache-2.0
"""Submit a sweep: plan it, store it, record what is refused, queue the rest. Twice the same adds nothing."""

from __future__ import annotations

import dataclasses
import itertools
import time
from dataclasses import dataclass

from farm.broker.jobs import JobStore
from farm.broker.register import Register
from farm.errors import UnavailableError, UsageError
from farm.store import Store
from farm.sweep import SweepSpec
from scheduler.expand import expand
from scheduler.learn import learn
from scheduler.match import Plan, Refused, match
from scheduler.records import recorded, refusal_record, utc_now

__all__ = ["Plan", "Refused", "Submission", "plan", "submit"]


@dataclass(frozen=True)
class Submission:
    """What a submission did: `new` jobs of `total` were queued, `recorded` have their results already.

    The others of `total` were queued before. `refusals` are on record, with their reasons.
    """

    sweep_id: str
    name: str
    new: int
    total: int
    recorded: int
    refusals: tuple[Refused, ...]
    notes: tuple[str, ...]


def plan(spec: SweepSpec, *, store: Store, jobs: JobStore, register: Register, again: bool = False) -> Plan:
    """What `submit` would do, with no effect at all. Jobs that wait or run already are in the plan, too.

    Raises:
        UnavailableError: no device has ever announced itself, so that there is nothing to plan with.
    """
    return _plan(_repeat(spec, store) if again else spec, store, register)


def submit(
    spec: SweepSpec,
    *,
    store: Store,
    jobs: JobStore,
    register: Register,
    priority: int | None = None,
    again: bool = False,
) -> Submission:
    """Put a sweep into the farm. First the store, then Redis: what Redis knows can always be made again.

    `priority` overrides the sweep's own; without either a new sweep gets 5 and a known one keeps what it has.

    Raises:
        UsageError: a file that the sweep needs has changed or is not in the store.
        UnavailableError: the store cannot be written, or no device is known.
    """
    spec = _repeat(spec, store) if again else spec
    made = _plan(spec, store, register)
    _put_files(spec, store)
    placed = {"places": list(made.places), "narrowed": made.narrowed, "submitted_at": time.time()}
    store.sweeps.write(made.sweep_id, spec.document() | placed)
    for refused in made.refusals:
        store.records.write(refusal_record(refused, utc_now()))
    left = [job for job in made.jobs if job.job_id not in made.recorded]
    wanted = spec.priority if priority is None else priority
    predict = learn(store, {job.workflow for job in left}, register.devices(), refresh=True)
    new = jobs.submit(made.sweep_id, made.name, wanted, left, [predict.predicted_s(job) for job in left])
    total, recorded_count = len(made.jobs), len(made.recorded)
    return Submission(made.sweep_id, made.name, new, total, recorded_count, made.refusals, made.notes)


def _plan(spec: SweepSpec, store: Store, register: Register) -> Plan:
    entries = register.devices()
    if not entries:
        raise UnavailableError(
            "no device has announced itself to this farm yet", hint="Start a worker: `farm worker`, or `farm up`."
        )
    made = match(spec, expand(spec), entries)
    if not store.records.by_run.is_dir() or not store.sweeps.exists(made.sweep_id):
        # A new store, or a new sweep: nothing is recorded. A store that is away stops `submit` at its first write.
        return made
    done = frozenset(job.job_id for job in made.jobs if recorded(store.records, job, refusals=False))
    return dataclasses.replace(made, recorded=done)


def _repeat(spec: SweepSpec, store: Store) -> SweepSpec:
    """The first repeat of a sweep that the store does not have; the sweep itself if it does not have that."""
    repeats = (spec.repeated(again) for again in itertools.count(spec.again))
    return next(repeat for repeat in repeats if not store.sweeps.exists(repeat.sweep_id))


def _put_files(spec: SweepSpec, store: Store) -> None:
    files = spec.onnx_files
    for sha256, path in files.items():
        if store.blobs.put_file(path).sha256 != sha256:
            raise UsageError(f"{path} changed while the sweep was submitted", hint="Submit it again.")
    for model in spec.models:
        needed = model.onnx_sha256 or model.weights.partition("sha256:")[2]
        if needed and needed not in files and not store.blobs.exists(needed):
            raise UsageError(
                f"model {model.name}: the store has no file with the sha256 {needed}",
                hint="Put the file into the store first, or name it by its path.",
            )
