# SPDX-License-Identifier: Apache-2.0
"""How the farm stands, for a person: what each device holds and for how long, what waits, what came of sweeps.

The same facts as `farm.broker.glance` gathers for Prometheus, but without reading every job: a hundred thousand that
wait cost a list of their ids. Asks for nothing that a reader's user may not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis

from farm.broker.glance import outcomes_of
from farm.broker.jobs import ENDED, JobState, JobStore, SweepView

#: Ended jobs whose outcomes are added up, from the newest sweep back: the rest would keep a person waiting.
OUTCOMES_LIMIT = 5000


@dataclass(frozen=True)
class Held:
    """A job that a device holds: since when, and until when unless its worker renews the lease; seconds from now."""

    device_id: str
    job_id: str
    name: str
    state: str
    held_s: float
    left_s: float


def held(client: redis.Redis, jobs: JobStore) -> list[Held]:
    """The jobs with a lease, by device.

    Raises:
        redis.RedisError: Redis is away, or does not let this user look.
    """
    seconds, micros = client.time()
    now_s = seconds + micros / 1e6
    found = []
    for job_id, end_ms in cast(list[tuple[str, float]], client.zrange("farm:leases", 0, -1, withscores=True)):
        view = jobs.get(job_id)
        if view is not None and view.state in (JobState.CLAIMED, JobState.RUNNING):
            since_s = now_s - view.times.get("claimed", now_s)
            found.append(
                Held(view.device_id or "", job_id, view.name, str(view.state), max(since_s, 0.0), end_ms / 1000 - now_s)
            )
    return sorted(found, key=lambda one: (one.device_id, one.job_id))


def waiting(client: redis.Redis) -> Counter[str]:
    """How many jobs wait at each target (`dev:ID`, `cls:NAME`), not yet handed to a device. Raises as `held`."""
    lines = sorted(cast(set[str], client.smembers("farm:lines")))
    pipe = client.pipeline(transaction=False)
    for line in lines:
        pipe.zcard(f"farm:ready:{line}")
    found: Counter[str] = Counter()
    for line, count in zip(lines, pipe.execute(), strict=True):
        found[line.partition("|")[2]] += count
    return +found


def outcomes(client: redis.Redis, sweeps: Sequence[SweepView], limit: int = OUTCOMES_LIMIT) -> dict[str, Counter[str]]:
    """Runs of ended jobs by outcome, for as many of the newest sweeps as have no more than `limit` such jobs together.

    `sweeps` are the newest last, as `JobStore.sweeps` has them. Raises as `held`.
    """
    chosen = []
    for sweep in reversed(sweeps):
        limit -= sum(count for state, count in sweep.counts.items() if state in ENDED)
        if limit < 0:
            break
        chosen.append(sweep)
    return {sweep.sweep_id: _of_sweep(client, sweep.sweep_id) for sweep in chosen if ENDED & sweep.counts.keys()}


def _of_sweep(client: redis.Redis, sweep_id: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for state, summary in _ended(client, cast(list[str], client.zrange(f"farm:sweep-jobs:{sweep_id}", 0, -1))):
        found.update(outcomes_of(state, summary))
    return found


def _ended(client: redis.Redis, job_ids: Iterable[str]) -> list[tuple[JobState, str | None]]:
    pipe = client.pipeline(transaction=False)
    for job_id in job_ids:
        pipe.hmget(f"farm:job:{job_id}", "state", "summary")
    rows: list[list[Any]] = pipe.execute()
    return [(JobState(state), summary) for state, summary in rows if state in ENDED]
