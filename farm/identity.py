# SPDX-License-Identifier: Apache-2.0
"""What of a record says which cell it belongs to, what must agree before two numbers are compared, and what may differ.

Identity: two records with the same identity measure the same cell; a difference in it is what a person compares (the
treatment), or no comparison. Conditions: they decide what the number means, so they must agree. Software: what changes
under a sweep that stays the same; differences are named and are part of the treatment.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from farm.contract.canonical import short_digest
from farm.contract.codec import to_json
from farm.contract.job import Protocol
from farm.contract.record import Record

#: What a cell is, in the order in which tables name it.
IDENTITY = ("model", "workflow", "precision", "options", "calibration", "concurrency", "batch", "stack", "device")

#: What is taken for the treatment unasked, where each side has one value and the two differ: a sweep's author writes
#: these on purpose. Another device or other weights may be an accident, so they are compared only when asked for.
AUTOMATIC = ("workflow", "precision", "options", "calibration", "stack")

#: What `--treatment` may name.
TREATMENTS = (*AUTOMATIC, "concurrency", "device", "weights")

#: How a device is set, by the part of `record.host` that tells.
_SETTINGS = {
    "gpu": ("power_limit_w",),
    "soc": ("power_mode", "jetson_clocks", "gpu_max_mhz"),
}

#: Switches that came after series had ids: unset, they are no part of one, so that series go on.
_LATER = ("contexts", "sessions", "inter_threads")

#: What a treatment brings with it by its nature.
_BRINGS = {
    "precision": ("calibration",),
    "concurrency": ("scenario", "streams", "contexts", "sessions", "threads", "inter_threads"),
    "device": ("device_class", "threads", "stack"),
}


def switches(protocol: Protocol) -> dict[str, Any]:
    """What makes two protocols comparable: everything but the name and the stages' time limits."""
    return {k: v for k, v in to_json(protocol).items() if k not in ("name", "stage_limits_s")}


def telling(found: Mapping[str, Any]) -> dict[str, Any]:
    """Switches without later ones that are not set: what an id is made from."""
    return {name: value for name, value in found.items() if name not in _LATER or value not in (None, "null")}


def with_what_it_brings(treatment: tuple[str, ...]) -> tuple[str, ...]:
    """A treatment and all fields that differ with it by its nature."""
    brought = [field for name in treatment for field in _BRINGS.get(name, ())]
    return tuple(dict.fromkeys([*treatment, *brought]))


def identity(record: Record) -> dict[str, str]:
    """Every identity field as text; '' where the record says nothing."""
    job = record.job
    return {
        "model": job.model.label,
        "workflow": job.workflow,
        "precision": job.precision,
        "options": _plain(job.options),
        "calibration": _plain(to_json(job.calibration)) if job.calibration is not None else "",
        "concurrency": concurrency(job.protocol),
        "batch": "" if record.batch_size is None else str(record.batch_size),
        "stack": record.stack.name if record.stack else "",
        "device": device(record),
    }


def concurrency(protocol: Protocol) -> str:
    """How many requests are in flight on what: `streams 4, contexts 8, threads 2`; '' but in the scenario `streams`.

    A cell of its own, so that a study's points are not taken for one another when two of them are compared.
    """
    if protocol.scenario != "streams":
        return ""
    return ", ".join(filter(None, (protocol.lanes_name, threads_text(protocol))))


def threads_text(protocol: Protocol) -> str:
    """`threads 2, inter-op threads 4`: what the protocol says, not what the host makes of it."""
    said = (("threads", protocol.threads), ("inter-op threads", protocol.inter_threads))
    return ", ".join(f"{name} {count}" for name, count in said if count is not None)


def device(record: Record) -> str:
    """The device of a record; where it reached none, what was asked for."""
    return record.device.device_id if record.device else record.job.target.key.partition(":")[2]


def conditions(record: Record) -> dict[str, str]:
    """What must agree before two numbers are compared, as text."""
    model = record.job.model
    found = switches(record.job.protocol) | {
        "input_shape": model.input_shape,
        "weights": model.onnx_sha256 or model.weights,
        "data": " ".join(filter(None, (record.job.data, record.job.data_path))),
        "seed": record.job.seed,
        "device_class": record.device.device_class if record.device else "",
        # The protocol may leave the number to the host, whose cores may have become more or fewer.
        "threads": record.effective.get("threads", record.job.protocol.threads),
    }
    if record.job.pipeline is not None:
        found["pipeline"] = to_json(record.job.pipeline)
    return {name: _text(value) for name, value in found.items()}


def series_id(record: Record) -> str:
    """Name what stays the same from night to night: a point on a device with every switch, whatever ran it.

    16 hexadecimal digits. Two records with one id differ in time and in software alone. What ran on pinned files is no
    point of the series that it was pinned for.
    """
    rebuild = record.job.rebuild
    builds = [rebuild.count, rebuild.timing_cache] if rebuild else None
    pins = [sorted((pin.kind, pin.sha256) for pin in record.job.pins)] if record.job.pins else []
    # Conditions hold what `concurrency` says already.
    is_of = {name: value for name, value in identity(record).items() if name != "concurrency"}
    return short_digest([1, record.point, builds, is_of, telling(conditions(record)), *pins], 16)


def software(record: Record) -> dict[str, str]:
    """Versions of all that ran: libraries as the measuring process saw them, driver, kernel, interpreter."""
    libraries = record.environment.get("libraries") or (record.stack.libraries if record.stack else {})
    facts = record.device.facts if record.device else {}
    found = {str(name): version for name, version in libraries.items()} | {
        "python": record.stack.python_version if record.stack else None,
        "driver": facts.get("driver_version"),
        "kernel": record.host.get("kernel"),
    }
    return {name: _text(value) for name, value in found.items() if value}


def device_settings(record: Record) -> dict[str, str]:
    """How the device was set: governor, power limit, power mode, fixed clocks."""
    found = {"governor": record.host.get("governor")}
    for part, names in _SETTINGS.items():
        told = record.host.get(part)
        found |= {name: told.get(name) for name in names} if isinstance(told, dict) else {}
    return {name.replace("_", " "): str(value) for name, value in found.items() if value is not None}


def farm_code(record: Record) -> dict[str, str]:
    """The farm's own versions: they differ from day to day where the farm itself is developed."""
    names = ("farm_version", "git_revision", "runner_digest")
    return {name: _text(record.provenance[name])[:12] for name in names if record.provenance.get(name)}


def per_side(of: Callable[[Record], Mapping[str, str]], records: tuple[Record, ...]) -> dict[str, tuple[str, ...]]:
    """Every value of each field that the records of a side have, sorted."""
    found: dict[str, set[str]] = {}
    for record in records:
        for name, value in of(record).items():
            found.setdefault(name, set()).add(value)
    return {name: tuple(sorted(values)) for name, values in found.items()}


def _plain(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_text(values[name])}" for name in sorted(values))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
