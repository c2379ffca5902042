# SPDX-License-Identifier: Apache-2.0
"""Job states in Redis: who may move a job from where to where. The scripts do it; this gives them types."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

import redis

from farm.broker.content import Packer, Reader, dump, part_field, refs_of, whole
from farm.broker.scripts import PRELUDE, SCRIPTS
from farm.broker.views import (
    ENDED,
    Claim,
    Dispatched,
    Head,
    JobState,
    JobView,
    RenewAnswer,
    SweepView,
    rank,
    read_heads,
    read_sweep,
    readable,
)
from farm.contract.codec import to_json
from farm.contract.job import JobSpec
from farm.contract.names import device_queue

__all__ = [
    "ENDED",
    "Claim",
    "Dispatched",
    "Head",
    "JobState",
    "JobView",
    "RenewAnswer",
    "SweepView",
    "rank",
    "JobStore",
]

#: Owed jobs looked at in one go: a large sweep that is cancelled must not keep the scheduler from its other work.
OWED_BLOCK = 100

#: A job that was running whenever its worker died, so often, is taken for the cause.
WORKERS_KILLED = 2

#: Jobs handed to one SUBMIT or CANCEL call, or read in one go: long enough to be quick, short enough not to hold Redis
#: up for more than some milliseconds.
SUBMIT_BLOCK = 500
#: Blocks sent together: a server that syncs each answer to the disk does so once for all of them.
_BLOCKS_AT_ONCE = 10


#: A message as it stands in a queue, from a job's id, the queue and the job's name.
Message = Callable[[str, str, str], str]


class JobStore:
    """All job states of one farm. Methods raise `redis.RedisError` when Redis is away; nothing is half-done then.

    Args:
        client: the farm's Redis.
        message: makes the message of a job from its id, a queue and its name, for `dispatch_head` to send it by itself.
    """

    def __init__(self, client: redis.Redis, message: Message | None = None) -> None:
        self._redis = client
        self._message = message
        self._reader = Reader()
        self._scripts = {name: client.register_script(PRELUDE + body) for name, body in SCRIPTS.items()}

    def submit(
        self,
        sweep_id: str,
        sweep_name: str,
        priority: int | None,
        jobs: Sequence[JobSpec],
        predicted_s: Sequence[float] | None = None,
    ) -> int:
        """Add the jobs that are not known yet, in their order; return how many. A priority given is set anew."""
        added, packer, told = 0, Packer(), set[str]()
        for start in range(0, max(len(jobs), 1), SUBMIT_BLOCK):
            block = jobs[start : start + SUBMIT_BLOCK]
            packed = packer.pack(block)
            new = [ref for ref in packed.parts if ref not in told]
            told.update(new)
            args: list[Any] = [sweep_id, sweep_name, "" if priority is None else priority, len(new)]
            for ref in new:
                args += [part_field(ref), packed.parts[ref]]
            for order, (job, text) in enumerate(zip(block, packed.texts, strict=True), start):
                predicted = predicted_s[order] if predicted_s else 1.0
                args += [job.job_id, text, job.name, job.target.key, predicted, order]
            added += int(self._call("submit", *args))
        return added

    def retry(self, job: JobSpec) -> str:
        """Queue an ended job again under the generation that `job` carries; return the state it is now in."""
        return str(self._call("retry", job.job_id, dump(to_json(job))))

    def dispatch(self, job_id: str, device_id: str) -> bool:
        """Bind a waiting job to a device: queued -> dispatched."""
        return bool(self._call("dispatch", job_id, device_id, "|", "", "")[0])

    def dispatch_head(self, head: Head, device_id: str) -> Dispatched:
        """The same for the first of a line, with its message where this can make one."""
        queue = device_queue(device_id)
        text = self._message(head.job_id, queue, head.name) if self._message is not None else ""
        line = f"{head.sweep_id}|{head.target_key}"
        answer = cast(list[Any], self._call("dispatch", head.job_id, device_id, line, queue, text))
        done, name, served_s, behind = bool(answer[0]), str(answer[1]), float(answer[2]), None
        if len(answer) == 7:
            job_id, order, predicted_s = str(answer[3]), int(float(answer[4])), float(answer[5])
            behind = replace(
                head, job_id=job_id, order=order, predicted_s=predicted_s, served_s=served_s, name=str(answer[6])
            )
        return Dispatched(done, name, served_s, behind, sent=done and bool(text))

    def recall(self, job_id: str) -> bool:
        """Put a dispatched job that nobody claimed back into its line."""
        return bool(self._call("recall", job_id))

    def claim(self, job_id: str, device_id: str, owner: str, lease_s: float) -> Claim | str:
        """Take a dispatched job for this device, or say why not. A second claim of one dispatch never succeeds.

        Raises:
            ValueError: what is kept for the job is not that job; the lease ends by itself.
        """
        token = uuid.uuid4().hex
        answer = cast(list[Any], self._call("claim", job_id, device_id, owner, token, int(lease_s * 1000)))
        if answer[0] == "ok":
            return Claim(whole(job_id, answer[2]), int(answer[1]), token, device_id)
        if answer[0] == "unknown":
            return f"job {job_id} is not known here: a message from an older farm?"
        if answer[0] == "device":
            return f"job {job_id} is bound to device {answer[1]}, not to {device_id}"
        return f"job {job_id} is {answer[1]}, not dispatched: a late or repeated message"

    def running(self, claim: Claim) -> bool:
        """claimed -> running; False when fenced."""
        return bool(self._call("running", claim.job.job_id, claim.token))

    def renew(self, claim: Claim, lease_s: float, drain_limit_s: float | None = None) -> RenewAnswer:
        """Extend the lease, and learn whether to go on.

        `drain_limit_s`: how long a job may go on once its device is in maintenance; None: to its end.
        """
        limit = "" if drain_limit_s is None else int(drain_limit_s * 1000)
        return RenewAnswer(int(self._call("renew", claim.job.job_id, claim.token, int(lease_s * 1000), limit)))

    def progress(self, claim: Claim, progress: dict[str, Any]) -> None:
        """Tell watchers where the job is. Ignored when fenced."""
        self._call("progress", claim.job.job_id, claim.token, dump(progress))

    def settle(self, claim: Claim, outcomes: dict[str, int]) -> bool:
        """The job has done with its device; the next one may start. False when fenced, or ended already.

        Its results are in the spool. Until `finish`, once the store has them, the lease is renewed as before.
        """
        points = len(claim.job.run_ids())
        progress = {"stage": "store", "point": points, "points": points, "outcomes": outcomes}
        return bool(self._call("settle", claim.job.job_id, claim.token, dump(progress)))

    def finish(self, claim: Claim, state: JobState, summary: dict[str, Any], *, owed: bool = False) -> bool:
        """End the job; False when fenced. Repeating one's own finish is harmless. `owed`: it could not be recorded."""
        answer = self._call("finish", claim.job.job_id, claim.token, str(state), dump(summary), int(owed))
        return int(answer) >= 0

    def release(self, claim: Claim, reason: str) -> bool:
        """Hand the job back unharmed (drain, device busy): it waits again and the attempt does not count."""
        return bool(self._call("release", claim.job.job_id, claim.token, reason))

    def cancel(self, job_id: str) -> JobState | None:
        """Cancel what waits, ask what runs to stop; return the state after the call, None if there is no such job."""
        return self.cancel_all([job_id])[0][0]

    def cancel_all(self, job_ids: Sequence[str]) -> list[tuple[JobState | None, bool]]:
        """The same for many: for each its state after the call, and whether this call cancelled it."""
        found: list[tuple[JobState | None, bool]] = []
        blocks = [job_ids[start : start + SUBMIT_BLOCK] for start in range(0, len(job_ids), SUBMIT_BLOCK)]
        for first in range(0, len(blocks), _BLOCKS_AT_ONCE):
            pipe = self._redis.pipeline(transaction=False)
            for block in blocks[first : first + _BLOCKS_AT_ONCE]:
                self._scripts["cancel"](args=block, client=pipe)
            for answer in itertools.chain.from_iterable(cast(list[list[str]], pipe.execute())):
                state, _, now = answer.partition(" ")
                found.append((None if state == "unknown" else JobState(state), bool(now)))
        return found

    def reap(self, max_attempts: int) -> list[tuple[str, JobState]]:
        """Deal with leases that ended: queued again, or an end state; return what changed.

        A job is quarantined after `max_attempts`, or after it was running whenever `WORKERS_KILLED` workers died.
        """
        uptime_s = self._redis.info("server")["uptime_in_seconds"]
        flat = cast(list[str], self._call("reap", max_attempts, int(uptime_s) * 1000, WORKERS_KILLED))
        return [(flat[i], JobState(flat[i + 1])) for i in range(0, len(flat), 2)]

    def disown(self, device_id: str, owner: str) -> int:
        """End at once the leases of an earlier worker of this device; only its lock's holder may say so."""
        return int(self._call("disown", device_id, owner))

    def keep_logs(self, job_id: str, refs: Sequence[dict[str, Any]]) -> None:
        """Note blobs that a lost attempt left, for the record of a job that is given up. An unknown job has none."""
        self._call("keep_logs", job_id, *map(dump, refs))

    def owed(self, most: int = OWED_BLOCK) -> list[JobView]:
        """Jobs that ended outside of any worker, or that theirs could not record: records may be missing."""
        return self._views(cast(list[str], self._redis.srandmember("farm:owed", most)))

    def settled(self, job_id: str) -> None:
        """An owed job has all its records."""
        self._redis.srem("farm:owed", job_id)

    def failing(self, device_ids: Sequence[str], limit: int) -> list[str]:
        """The devices of these on which as many jobs failed, or more, since the last one that did not."""
        pipe = self._redis.pipeline(transaction=False)
        for device_id in device_ids:
            pipe.llen(f"farm:failed:{device_id}")
        counts = pipe.execute() if device_ids else []
        return [device_id for device_id, count in zip(device_ids, counts, strict=True) if count >= limit]

    def failures(self, device_id: str) -> list[JobView]:
        """The jobs that failed on a device since the last one that did not. A job counts once, however often tried."""
        return self._views(cast(list[str], self._redis.lrange(f"farm:failed:{device_id}", 0, -1)))

    def forget_failures(self, device_id: str) -> None:
        """Begin to count a device's failures anew."""
        self._redis.delete(f"farm:failed:{device_id}")

    def heads(self) -> list[Head]:
        """The first waiting job of every line."""
        return read_heads(cast(list[str], self._call("heads")))

    def idle_and_heads(self, device_ids: Sequence[str]) -> tuple[list[str], list[Head]]:
        """Those of these devices that hold nothing and on which the last job did not fail; and `heads`.

        In one round trip: it is what a device waits for that has just become idle.
        """
        pipe = self._redis.pipeline(transaction=False)
        for device_id in device_ids:
            pipe.smembers(f"farm:window:{device_id}")
            pipe.llen(f"farm:failed:{device_id}")
        # By its digest alone: a pipeline that is given the script first asks, one more round trip, whether it is known.
        pipe.evalsha(self._scripts["heads"].sha, 0)
        *counts, flat = pipe.execute(raise_on_error=False)
        if trouble := next((one for one in (*counts, flat) if isinstance(one, redis.RedisError)), None):
            if trouble is not flat or not isinstance(trouble, redis.exceptions.NoScriptError):
                raise trouble
            flat = self._call("heads")
        idle = [
            device_id
            for device_id, held, failed in zip(device_ids, counts[::2], counts[1::2], strict=True)
            if not held and not failed
        ]
        return idle, read_heads(cast(list[str], flat))

    def window(self, device_id: str) -> list[JobView]:
        """What is dispatched to, claimed or running on a device."""
        return self.windows([device_id])[device_id]

    def windows(self, device_ids: Sequence[str]) -> dict[str, list[JobView]]:
        """The same for several devices, in as many round trips as for one."""
        pipe = self._redis.pipeline(transaction=False)
        for device_id in device_ids:
            pipe.smembers(f"farm:window:{device_id}")
        members = dict(zip(device_ids, pipe.execute(), strict=True)) if device_ids else {}
        known = {view.job_id: view for view in self._views({job for ids in members.values() for job in ids})}
        return {
            device_id: [view for job_id, view in known.items() if job_id in ids] if ids else []
            for device_id, ids in members.items()
        }

    def get(self, job_id: str) -> JobView | None:
        """One job, or None."""
        views = self._views([job_id])
        return views[0] if views else None

    def sweep_job_ids(self, sweep_id: str) -> list[str]:
        """The ids of a sweep's jobs, in their order."""
        return cast(list[str], self._redis.zrange(f"farm:sweep-jobs:{sweep_id}", 0, -1))

    def sweep_jobs(self, sweep_id: str) -> list[JobView]:
        """All jobs of a sweep, in their order."""
        return self._views(self.sweep_job_ids(sweep_id))

    def views(self, job_ids: Iterable[str]) -> list[JobView]:
        """Those jobs, in the order of their sweeps."""
        return self._views(job_ids)

    def states(self, job_ids: Sequence[str]) -> dict[str, JobState]:
        """Their states alone; of a job that is not known nothing."""
        found: dict[str, JobState] = {}
        for start in range(0, len(job_ids), SUBMIT_BLOCK):
            block = job_ids[start : start + SUBMIT_BLOCK]
            pipe = self._redis.pipeline(transaction=False)
            for job_id in block:
                pipe.hget(f"farm:job:{job_id}", "state")
            answers = zip(block, pipe.execute(), strict=True)
            found |= {job_id: JobState(state) for job_id, state in answers if state in set(JobState)}
        return found

    def counts(self, sweep_id: str) -> dict[str, int]:
        """How many jobs of a sweep are in which state."""
        found = cast(dict[str, str], self._redis.hgetall(f"farm:counts:{sweep_id}"))
        return {state: int(count) for state, count in found.items() if int(count) and state in set(JobState)}

    def at_devices(self) -> set[str]:
        """What is dispatched to, claimed or running on any device."""
        devices = sorted(cast(set[str], self._redis.smembers("farm:devices")))
        pipe = self._redis.pipeline(transaction=False)
        for device_id in devices:
            pipe.smembers(f"farm:window:{device_id}")
        return set(itertools.chain.from_iterable(pipe.execute())) if devices else set()

    def sweeps(self) -> list[SweepView]:
        """All sweeps, the newest last."""
        ids = cast(list[str], self._redis.zrange("farm:sweeps", 0, -1))
        pipe = self._redis.pipeline(transaction=False)
        for sweep_id in ids:
            pipe.hmget(f"farm:sweep:{sweep_id}", "name", "priority", "submitted_at")
            pipe.hgetall(f"farm:counts:{sweep_id}")
        answers = pipe.execute()
        return [read_sweep(sweep_id, *answers[2 * i : 2 * i + 2]) for i, sweep_id in enumerate(ids)]

    def set_priority(self, sweep_id: str, priority: int) -> None:
        """Change the priority of everything of the sweep that has not started."""
        self._redis.hset(f"farm:sweep:{sweep_id}", "priority", str(priority))
        self._redis.lpush("farm:wake", "1")

    def _call(self, name: str, *args: Any) -> Any:
        return self._scripts[name](args=list(args))

    def _views(self, job_ids: Iterable[str]) -> list[JobView]:
        ids = list(job_ids)
        views: list[JobView] = []
        for start in range(0, len(ids), SUBMIT_BLOCK):
            views += self._block(ids[start : start + SUBMIT_BLOCK])
        return sorted(views, key=lambda view: (view.sweep_id, view.order))

    def _block(self, ids: Sequence[str]) -> list[JobView]:
        pipe = self._redis.pipeline(transaction=False)
        for job_id in ids:
            pipe.hgetall(f"farm:job:{job_id}")
            pipe.get(f"farm:spec:{job_id}")
        answers = pipe.execute()
        rows = [row for row in zip(ids, answers[::2], answers[1::2], strict=True) if row[1] and row[2]]
        priorities = self._learn([(h["sweep"], text) for _, h, text in rows if "sweep" in h])
        return [view for row in rows if (view := readable(*row, priorities, self._reader)) is not None]

    def _learn(self, rows: Iterable[tuple[str, str]]) -> dict[str, int]:
        """The priorities of these sweeps; and the parts that their jobs name and that are not known yet are read."""
        self._reader.trim()
        wanted: dict[str, set[str]] = {}
        for sweep_id, text in rows:
            wanted.setdefault(sweep_id, set()).update(ref for ref in refs_of(text) if ref not in self._reader.parts)
        pipe = self._redis.pipeline(transaction=False)
        asked = [(sweep_id, sorted(refs)) for sweep_id, refs in sorted(wanted.items())]
        for sweep_id, refs in asked:
            pipe.hmget(f"farm:sweep:{sweep_id}", "priority", *map(part_field, refs))
        priorities = {}
        for (sweep_id, refs), (priority, *texts) in zip(asked, pipe.execute() if asked else [], strict=True):
            priorities[sweep_id] = int(priority or 5)
            self._reader.parts |= {ref: text for ref, text in zip(refs, texts, strict=True) if text}
        return priorities
