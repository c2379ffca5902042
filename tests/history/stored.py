# SPDX-License-Identifier: Apache-2.0
"""A store of nights made record by record, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from farm.contract.outcome import Outcome
from farm.contract.record import Record
from farm.history.document import Night, encode
from farm.store import Store
from tests.factories import make_job, make_record


def new_store(root: Path) -> Store:
    """An empty store."""
    store = Store(root)
    store.create()
    return store


def night_name(number: int) -> str:
    """`2026-03-01` for 1."""
    return f"2026-03-{number:02d}"


def job_of(number: int, model: str = "resnet18", **fields: Any) -> Any:
    """The job of a model in the sweep of night `number`."""
    sweep = f"nightly-{number:02d}"
    return make_job(
        job_id=f"{sweep}-{model}-{fields.get('workflow', 'x')}",
        sweep_id=sweep,
        sweep_name="nightly",
        model=model,
        **fields,
    )


def put(
    store: Store, number: int, value: float | None, *, model: str = "resnet18", day: int | None = None, **fields: Any
) -> Record:
    """One run of night `number`; with no value it is a failed one. `day` is when it really ran."""
    job = fields.pop("job", None) or job_of(number, model)
    at = f"{night_name(day or number)}T01:00"
    made: dict[str, Any] = {"started_at": f"{at}:00.000000+00:00", "finished_at": f"{at}:20.000000+00:00"}
    if value is None:
        made |= {"outcome": Outcome.FAILED, "metrics": {}, "intervals": {}}
    else:
        made |= {"metrics": {"latency_ms": value}, "intervals": {}}
    record = make_record(job=job, **(made | fields))
    store.records.write(record)
    return record


def put_nights(store: Store, values: Sequence[float], model: str = "resnet18", **fields: Any) -> None:
    """A run a night, with these values, and the nights' documents."""
    for number, value in enumerate(values, start=1):
        put(store, number, value, model=model, **fields)
        name_night(store, number)


def name_night(store: Store, number: int, **fields: Any) -> None:
    """Write the document that a night has before it is judged, unless there is one."""
    name = night_name(number)
    if not store.nights.exists(name):
        store.nights.write(name, encode(replace(Night(name, (f"nightly-{number:02d}",)), **fields)))
