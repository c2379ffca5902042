# SPDX-License-Identifier: Apache-2.0
"""Every metric that is served: its name, kind, labels and meaning. docs/monitoring.md has the same table."""

from __future__ import annotations

from dataclasses import dataclass

#: Values of one label that are told apart; whatever comes after them is added up under `other`.
LABEL_LIMIT = 200
OTHER = "other"


@dataclass(frozen=True)
class Family:
    """One metric. `kind` is `gauge`, `counter` or `histogram`."""

    kind: str
    meaning: str
    labels: tuple[str, ...] = ()


FAMILIES: dict[str, Family] = {
    "inferfarm_build_info": Family("gauge", "1; the version that serves these numbers", ("version",)),
    "inferfarm_broker_up": Family("gauge", "1 if Redis answers; without it only this and the night are served"),
    "inferfarm_scheduler_up": Family("gauge", "1 if a scheduler is at work"),
    "inferfarm_nightly_up": Family("gauge", "1 if `farm nightly run --serve` is at work"),
    "inferfarm_sweeps": Family("gauge", "Sweeps that Redis knows: open, or ended", ("state",)),
    "inferfarm_jobs": Family("gauge", "Jobs that Redis knows, by state", ("state",)),
    "inferfarm_known_runs": Family("gauge", "Runs of ended jobs that Redis knows, by outcome", ("outcome",)),
    "inferfarm_queue_depth": Family("gauge", "Jobs that wait, by target: a device or a class", ("target",)),
    "inferfarm_device_jobs": Family("gauge", "Jobs at a device: dispatched, claimed, running", ("device", "state")),
    "inferfarm_device_state": Family(
        "gauge", "1 for the device's state: ready, drained, maintenance, quarantined", ("device", "class", "state")
    ),
    "inferfarm_device_online": Family("gauge", "1 if a worker serves the device", ("device", "class")),
    "inferfarm_device_seen_seconds": Family("gauge", "Seconds since its worker last announced it", ("device",)),
    "inferfarm_canary_verdict": Family(
        "gauge", "1 for the canary's verdict: none, baseline, steady, unconfirmed, shifted", ("device", "verdict")
    ),
    "inferfarm_canary_change_ratio": Family("gauge", "The last canary against its baseline, a share of 1", ("device",)),
    "inferfarm_canary_timestamp_seconds": Family("gauge", "When the last canary was judged", ("device",)),
    "inferfarm_lease_age_seconds": Family("gauge", "How long the device has held its job, the oldest", ("device",)),
    "inferfarm_lease_left_seconds": Family("gauge", "Until its lease ends unless renewed, the nearest", ("device",)),
    "inferfarm_runs_total": Family(
        "counter", "Runs of jobs that ended while this was served, by outcome", ("device", "outcome")
    ),
    "inferfarm_job_duration_seconds": Family(
        "histogram", "From claim to end of jobs that ended while this was served", ("device",)
    ),
    "inferfarm_night_timestamp_seconds": Family("gauge", "When the last night began, and ended", ("moment",)),
    "inferfarm_night_records": Family("gauge", "Records of the last night: all, or ok", ("which",)),
    "inferfarm_night_missing_jobs": Family("gauge", "Jobs of the last night without a result"),
    "inferfarm_night_problems": Family("gauge", "Steps and sweeps of the last night that failed"),
    "inferfarm_night_events": Family("gauge", "Events of the last night that nobody settled, by state", ("state",)),
}
