# SPDX-License-Identifier: Apache-2.0
"""From records to the ways of running one network, each with what is known of it. Pure.

Ways stand side by side only within one world: the same weights, input, data, boundary and scenario. Within it, records
of one way are joined whatever sweep they come from:

- latency, throughput and memory: the newest software of the way, and of its protocols the one with the most processes;
- energy: likewise, of the runs that have it;
- accuracy: the newest evaluation of the same weights (the trained file, too, where both name it) in the same workflow,
  precision, options, calibration and stack on the same class of devices, at whatever batch size it was taken.

Weights that were trained where they ran are the same only if they are one file, which is then part of the world.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from farm import identity
from farm.canary import is_canary
from farm.choice import readings
from farm.choice.model import Candidate, Reading
from farm.contract.outcome import Outcome
from farm.contract.record import ACCURACY, LATENCY, Record
from farm.thresholds import DEFAULTS

#: What makes numbers of two records mean different things. How long was measured does not.
WORLD = (
    "weights", "weights_file", "input_shape", "data", "boundary", "inputs",
    "scenario", "streams", "contexts", "sessions", "inter_threads",
)  # fmt: skip

_WAY = ("workflow", "precision", "options", "calibration", "stack")


def candidates_of(
    records: Iterable[object], model: str, device: str, *, dataset: str | None = None, sd: float | None = None
) -> list[Candidate]:
    """Every way of a model on a device (its id) or a class of devices, at every batch size, of every world."""
    near = [record for record in records if isinstance(record, Record) and _is_of(record, model, device)]
    scatter = DEFAULTS["assumed_process_sd"] if sd is None else sd
    evaluations = [r for r in near if r.point == ACCURACY and _dataset(r) is not None]
    evaluations = [r for r in evaluations if dataset is None or _dataset(r) == dataset]
    found: dict[tuple[tuple[str, str], ...], list[Record]] = {}
    for record in near:
        if record.point == LATENCY and record.batch_size is not None and record.job.rebuild is None:
            found.setdefault(_key(record), []).append(record)
    by_way: dict[tuple[str, ...], list[Record]] = {}
    for record in evaluations:
        by_way.setdefault(_way(record), []).append(record)
    return [_candidate(dict(key), of, by_way.get(_way(of[-1]), ()), scatter) for key, of in sorted(found.items())]


def worlds_of(candidates: Iterable[Candidate]) -> dict[tuple[str, ...], list[Candidate]]:
    """Candidates by world, in the order of `WORLD`'s fields."""
    found: dict[tuple[str, ...], list[Candidate]] = {}
    for candidate in candidates:
        found.setdefault(tuple(candidate.world[name] for name in WORLD), []).append(candidate)
    return found


def _trained(record: Record) -> str:
    """The file of weights that were trained where they ran, so that the name alone does not say which they are."""
    files = sorted(ref.sha256[:12] for ref in record.artifacts if ref.kind == "weights")
    return " ".join(files) if record.job.model.weights.startswith("digits:") else ""


def _way(record: Record) -> tuple[str, ...]:
    is_of = identity.identity(record)
    return tuple(is_of[name] for name in _WAY)


def _is_of(record: Record, model: str, device: str) -> bool:
    if record.outcome is not Outcome.OK or record.device is None or is_canary(record.job):
        return False
    return record.job.model.label == model and device in (record.device.device_id, record.device.device_class)


def _key(record: Record) -> tuple[tuple[str, str], ...]:
    is_of, under = identity.identity(record), identity.conditions(record)
    under["weights_file"] = _trained(record)
    kept = {name: is_of[name] for name in (*_WAY, "batch")} | {"threads": under["threads"]}
    # What a protocol leaves open is nothing to tell of a world.
    kept |= {name: "" if under[name] == "null" else under[name] for name in WORLD}
    device_class = record.device.device_class if record.device else ""
    return tuple((kept | {"model": is_of["model"], "device_class": device_class}).items())


def _candidate(
    key: Mapping[str, str], records: Sequence[Record], evaluations: Sequence[Record], sd: float
) -> Candidate:
    newest = max(records, key=lambda r: (r.started_at, r.run_id))
    same = [record for record in records if identity.software(record) == identity.software(newest)]
    found, absent = _measured(same, newest.device.kind if newest.device else "", sd)
    taken = _evaluation(newest, evaluations)
    share = readings.accuracy(taken) if taken is not None else None
    if share is not None:
        found["accuracy"] = share
    else:
        absent["accuracy"] = "no evaluation of the same weights in this way"
    notes = []
    if taken is not None and identity.software(taken) != identity.software(newest):
        notes.append("the accuracy was taken with other versions of the software")
    devices = tuple(sorted({identity.device(record) for record in same}))
    return Candidate(
        **{name: key[name] for name in ("model", "device_class", *_WAY, "threads")},
        batch=int(key["batch"]),
        world={name: key[name] for name in WORLD},
        readings=found,
        absent=absent,
        devices=devices,
        notes=tuple(notes),
    )


def _measured(records: Sequence[Record], kind: str, sd: float) -> tuple[dict[str, Reading], dict[str, str]]:
    name, memory = readings.MEMORY.get(kind, readings.MEMORY["cpu"])
    asked = {
        "latency": ("latency_ms", readings.latency),
        "throughput": ("throughput_per_s", readings.throughput),
        "memory": (name, memory),
        "energy": ("energy_per_input_j", readings.energy),
    }
    found: dict[str, Reading] = {}
    absent: dict[str, str] = {}
    for axis, (metric, of) in asked.items():
        made = [one for group in _protocols(records) if (one := readings.reading(group, metric, sd, of)) is not None]
        if made:
            found[axis] = next((one for one in made if not one.doubtful), made[0])
        else:
            absent[axis] = "not measured"
    return found, absent


def _protocols(records: Sequence[Record]) -> list[list[Record]]:
    """Records by what they were measured under: the most processes first, then the newest."""
    found: dict[tuple[tuple[str, str], ...], list[Record]] = {}
    for record in sorted(records, key=lambda r: (r.started_at, r.run_id)):
        found.setdefault(tuple(sorted(identity.conditions(record).items())), []).append(record)

    def worth(of: list[Record]) -> tuple[int, str]:
        return sum(len(record.processes) or 1 for record in of), of[-1].started_at

    return sorted(found.values(), key=worth, reverse=True)


def _evaluation(record: Record, evaluations: Sequence[Record]) -> Record | None:
    """The newest of a way's evaluations that is of these weights."""
    fit = [other for other in evaluations if other.job.model == record.job.model and _same_file(other, record)]
    return max(fit, key=lambda r: (r.started_at, r.run_id), default=None)


def _same_file(one: Record, other: Record) -> bool:
    files = [{ref.sha256 for ref in record.artifacts if ref.kind == "weights"} for record in (one, other)]
    return not all(files) or files[0] == files[1]


def _dataset(record: Record) -> str | None:
    """What the accuracy was taken on: `digits`, `imagenet`."""
    return record.job.accuracy.dataset if record.job.accuracy is not None else None
