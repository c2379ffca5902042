# SPDX-License-Identifier: Apache-2.0
"""Gathers the farm's numbers when Prometheus asks, with no more rights than a reader's, and a bounded set of labels."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import redis
from prometheus_client import Counter as TotalOf
from prometheus_client import Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import farm
from farm.broker.glance import Look, Watcher
from farm.broker.jobs import JobState
from farm.broker.register import DRAINED, MAINTENANCE, QUARANTINED, READY, DeviceEntry, Register
from farm.canary.state import BASELINE, NO_VERDICT, SHIFTED, STEADY, UNCONFIRMED
from farm.contract.outcome import Outcome
from farm.errors import FarmError
from farm.monitoring.families import FAMILIES, LABEL_LIMIT, OTHER
from farm.store import Store
from scheduler.leader import KEY
from scheduler.nightly.lock import BEAT_KEY
from scheduler.nightly.status import line

log = logging.getLogger("inferfarm.monitoring")

DEVICE_STATES = (READY, DRAINED, MAINTENANCE, QUARANTINED)
VERDICTS = (NO_VERDICT, BASELINE, STEADY, UNCONFIRMED, SHIFTED)
EVENT_STATES = ("new", "confirmed", "unconfirmed")
#: A canary takes half a minute, a paper's sweep of one network hours.
BUCKETS_S = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 10800)

Rows = Iterable[tuple[Sequence[str], float]]


class FarmCollector(Collector):
    """One farm. What Redis or the store cannot tell now is left out, and `inferfarm_broker_up` says so."""

    def __init__(self, client: redis.Redis, store: Store) -> None:
        self._redis, self._store = client, store
        self._register, self._watcher = Register(client), Watcher(client)
        self._runs = TotalOf(*_named("inferfarm_runs_total"), registry=None)
        self._took = Histogram(*_named("inferfarm_job_duration_seconds"), buckets=BUCKETS_S, registry=None)
        # Two that ask at once would both count what has ended since.
        self._lock = threading.Lock()
        self._said: dict[str, str] = {}

    def collect(self) -> Iterator[Metric]:
        """All families, in the table's order as far as they are known."""
        with self._lock:
            yield _gauge("inferfarm_build_info", [((farm.__version__,), 1)])
            found = self._from_redis()
            yield _gauge("inferfarm_broker_up", [((), float(found is not None))])
            yield from found or ()
            yield from self._runs.collect()
            yield from self._took.collect()
            yield from self._night()

    def _from_redis(self) -> list[Metric] | None:
        try:
            up = [bool(self._redis.exists(key)) for key in (KEY, BEAT_KEY)]
            devices, look = self._register.devices(), self._watcher.look()
        except redis.RedisError as error:
            self._say("the broker cannot be asked", error)
            return None
        self._count(devices, look)
        families = [_gauge("inferfarm_scheduler_up", [((), up[0])]), _gauge("inferfarm_nightly_up", [((), up[1])])]
        return [*families, *_jobs(look), *_devices(devices, look.now_s), *_canaries(devices)]

    def _count(self, devices: Sequence[DeviceEntry], look: Look) -> None:
        known = {entry.device_id for entry in devices[:LABEL_LIMIT]}
        # From zero on, or Prometheus would miss the first of each.
        for device in known:
            self._took.labels(device)
            for outcome in Outcome:
                self._runs.labels(device, outcome.value)
        for job in look.ended:
            device = job.device_id if job.device_id in known else OTHER
            for name, count in job.outcomes.items():
                self._runs.labels(device, name).inc(count)
            if job.seconds is not None:
                self._took.labels(device).observe(job.seconds)

    def _night(self) -> Iterator[Metric]:
        try:
            names = self._store.nights.names()
            document = self._store.nights.read(names[-1]) if names else {}
        except (FarmError, OSError) as error:
            self._say("the last night cannot be read", error)
            return
        if not names:
            return
        night = line(names[-1], document.get("run") or {}, document)
        at = {"began": _moment(night.began_at), "ended": _moment(night.ended_at)}
        yield _gauge("inferfarm_night_timestamp_seconds", [((k,), v) for k, v in at.items() if v is not None])
        yield _gauge("inferfarm_night_records", [(("all",), night.records), (("ok",), night.ok)])
        yield _gauge("inferfarm_night_missing_jobs", [((), night.missing)])
        yield _gauge("inferfarm_night_problems", [((), len(night.problems))])
        yield _gauge("inferfarm_night_events", [((s,), night.events.get(s, 0)) for s in EVENT_STATES])

    def _say(self, what: str, error: Exception) -> None:
        """Once, and not at every scrape."""
        if self._said.get(what) != str(error):
            log.warning("%s: %s", what, error)
        self._said[what] = str(error)


def _named(name: str) -> tuple[str, str, tuple[str, ...]]:
    family = FAMILIES[name]
    return name, family.meaning, family.labels


def _gauge(name: str, rows: Rows) -> Metric:
    name, meaning, names = _named(name)
    made = GaugeMetricFamily(name, meaning, labels=names)
    for labels, value in rows:
        made.add_metric(list(labels), float(value))
    return made


def _jobs(look: Look) -> Iterator[Metric]:
    sweeps = {"open": look.open_sweeps, "ended": look.sweeps - look.open_sweeps}
    yield _gauge("inferfarm_sweeps", [((state,), count) for state, count in sweeps.items()])
    yield _gauge("inferfarm_jobs", [((state.value,), look.states[state.value]) for state in JobState])
    yield _gauge("inferfarm_known_runs", [((outcome.value,), look.outcomes[outcome.value]) for outcome in Outcome])
    yield _gauge("inferfarm_queue_depth", [((target,), count) for target, count in bounded(look.waiting).items()])
    yield _gauge("inferfarm_device_jobs", look.at_device.most_common(LABEL_LIMIT))
    ages: dict[str, float] = {}
    left: dict[str, float] = {}
    for lease in look.leases[:LABEL_LIMIT]:
        ages[lease.device_id] = max(ages.get(lease.device_id, 0.0), lease.held_s)
        left[lease.device_id] = min(left.get(lease.device_id, lease.left_s), lease.left_s)
    yield _gauge("inferfarm_lease_age_seconds", [((device,), age) for device, age in ages.items()])
    yield _gauge("inferfarm_lease_left_seconds", [((device,), seconds) for device, seconds in left.items()])


def _devices(entries: Sequence[DeviceEntry], now_s: float) -> Iterator[Metric]:
    told = [(e.device_id, e.announcement.device.device_class, e) for e in entries[:LABEL_LIMIT]]
    states = [((i, c, state), float(e.state == state)) for i, c, e in told for state in DEVICE_STATES]
    yield _gauge("inferfarm_device_state", states)
    yield _gauge("inferfarm_device_online", [((i, c), e.online) for i, c, e in told])
    yield _gauge("inferfarm_device_seen_seconds", [((i,), e.age_s) for i, _, e in told])


def _canaries(entries: Sequence[DeviceEntry]) -> Iterator[Metric]:
    known = [(e.device_id, e.canary.state) for e in entries[:LABEL_LIMIT] if e.canary.state is not None]
    verdicts = [((device, verdict), float(state.verdict == verdict)) for device, state in known for verdict in VERDICTS]
    yield _gauge("inferfarm_canary_verdict", verdicts)
    changes = [((device,), state.change) for device, state in known if state.change is not None]
    yield _gauge("inferfarm_canary_change_ratio", changes)
    moments: list[tuple[Sequence[str], float]] = []
    for device, state in known:
        at = _moment(state.last_at or "")
        if at is not None:
            moments.append(((device,), at))
    yield _gauge("inferfarm_canary_timestamp_seconds", moments)


def bounded(counts: Mapping[str, int], limit: int = LABEL_LIMIT) -> Mapping[str, int]:
    """The largest `limit` of them by name; the rest added up under `other`."""
    ordered = sorted(counts.items(), key=lambda row: (-row[1], row[0]))
    kept: Counter[str] = Counter(dict(ordered[:limit]))
    rest = sum(count for _, count in ordered[limit:])
    if rest:
        kept[OTHER] += rest
    return kept


def _moment(text: Any) -> float | None:
    """Unix seconds of an ISO 8601 time, UTC where it names no zone."""
    try:
        at = datetime.fromisoformat(str(text)) if text else None
    except ValueError:
        return None
    if at is None:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
