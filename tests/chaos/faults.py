# SPDX-License-Identifier: Apache-2.0
"""The faults, one function each, and their table.

A fault returns what it did, or None where it finds nothing to hurt now: then it is tried again a moment later.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil
import redis

from farm.broker.jobs import JobState
from farm.broker.register import MAINTENANCE, Register
from tests.chaos.farm import LEASE_S, ChaosFarm
from tests.chaos.parts import Worker
from workers.daemon.stragglers import RUN_ENV


@dataclass(frozen=True)
class Pick:
    """What the seed has chosen for one fault: which worker, and numbers from 0 to 1 for how long and which."""

    victim: int
    amount: float
    which: float


@dataclass(frozen=True)
class Injected:
    """A fault that was done. It is healed after `lasts_s`, once `over()`, by `heal`; `devices` must work again then."""

    devices: tuple[str, ...]
    lasts_s: float = 0.0
    heal: Callable[[], None] = lambda: None
    over: Callable[[], bool] = lambda: True


Inject = Callable[[ChaosFarm, Pick], Injected | None]


@dataclass(frozen=True)
class Fault:
    """A kind of fault. Two that need the same thing (`broker`, `store`, `worker`) do not last at the same time."""

    name: str
    inject: Inject
    needs: str = ""
    weight: float = 1.0


@dataclass
class Memory:
    """Celery messages that were seen, to be sent again much later."""

    messages: list[tuple[str, str]] = field(default_factory=list)


_memory = Memory()


def kill_runner(farm: ChaosFarm, pick: Pick) -> Injected | None:
    worker = _worker(farm, pick)
    return _kill_of_run(farm, worker, worker.runner())


def kill_grandchild(farm: ChaosFarm, pick: Pick) -> Injected | None:
    worker = _worker(farm, pick)
    return _kill(worker, worker.grandchild())


def kill_supervisor(farm: ChaosFarm, pick: Pick) -> Injected | None:
    worker = _worker(farm, pick)
    supervisor, runner = worker.supervisor(), worker.runner()
    if supervisor is None or runner is None:
        return None
    _note_kill(farm, worker, runner)
    return _kill(worker, supervisor)


def kill_worker(farm: ChaosFarm, pick: Pick) -> Injected | None:
    worker = _worker(farm, pick)
    return _kill(worker, worker.main()) if _is_busy(worker) else None


def kill_worker_twice(farm: ChaosFarm, pick: Pick) -> Injected | None:
    """SIGKILL of the process that runs a job, and of the next that takes it: the job is to be quarantined.

    The pool's process, since it is back before the lease ends: then the farm knows that it died, and was not cut off.
    """
    worker = _worker(farm, pick)
    job_id = _running(farm, worker)
    if job_id is None or _kill(worker, worker.child()) is None:
        return None
    until = time.monotonic() + 4 * LEASE_S

    def over() -> bool:
        again = [one for one in farm.workers if _running(farm, one) == job_id and _is_busy(one)]
        killed = bool(again) and again[0].part.alive() and _kill(again[0], again[0].child()) is not None
        return killed or time.monotonic() > until

    return Injected((worker.device_id,), LEASE_S / 6, over=over)


def kill_pool_child(farm: ChaosFarm, pick: Pick) -> Injected | None:
    worker = _worker(farm, pick)
    return _kill(worker, worker.child()) if _is_busy(worker) else None


def kill_host(farm: ChaosFarm, pick: Pick) -> Injected | None:
    """All processes of a worker's host at once, in no order: the nearest to a power cut that a test can come."""
    worker = _worker(farm, pick)
    processes = worker.everything() if _is_busy(worker) else []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    return Injected((worker.device_id,)) if processes else None


def kill_scheduler(farm: ChaosFarm, _pick: Pick) -> Injected | None:
    if not farm.scheduler.alive():
        return None
    farm.scheduler.signal(signal.SIGKILL)
    return Injected(tuple(farm.devices))


def kill_redis(farm: ChaosFarm, _pick: Pick) -> Injected | None:
    if not farm.broker.alive():
        return None
    farm.kill_broker()
    return Injected(tuple(farm.devices))


def redis_away(farm: ChaosFarm, pick: Pick) -> Injected | None:
    """SIGKILL, and no Redis for up to three leases."""
    if not farm.broker.alive():
        return None
    farm.broker_held = True
    farm.kill_broker()

    def heal() -> None:
        farm.broker_held = False
        farm.keep_alive()

    return Injected(tuple(farm.devices), (0.5 + 2.5 * pick.amount) * LEASE_S, heal)


def flush_redis(farm: ChaosFarm, _pick: Pick) -> Injected | None:
    try:
        farm.client.flushall()
    except redis.RedisError:
        return None
    return Injected(tuple(farm.devices))


def drain_worker(farm: ChaosFarm, pick: Pick) -> Injected | None:
    worker = _worker(farm, pick)
    if not _is_busy(worker):
        return None
    starts = worker.part.starts
    worker.part.signal(signal.SIGTERM)
    return Injected((worker.device_id,), over=lambda: worker.part.starts > starts)


def stop_worker(farm: ChaosFarm, pick: Pick) -> Injected | None:
    """SIGSTOP for longer than the lease, as when a laptop sleeps: the supervisor goes on, the daemon does not."""
    worker = _worker(farm, pick)
    frozen = [p for p in (worker.main(), worker.child()) if p is not None] if _is_busy(worker) else []
    if len(frozen) < 2:
        return None
    for process in frozen:
        process.suspend()

    def heal() -> None:
        for process in frozen:
            with contextlib.suppress(psutil.Error):
                process.resume()

    return Injected((worker.device_id,), (1.2 + pick.amount) * LEASE_S, heal)


def hold_network(farm: ChaosFarm, pick: Pick) -> Injected | None:
    worker = _worker(farm, pick)
    worker.proxy.hold()
    return Injected((worker.device_id,), (1.2 + pick.amount) * LEASE_S, worker.proxy.mend)


def cut_network(farm: ChaosFarm, pick: Pick) -> Injected | None:
    worker = _worker(farm, pick)
    worker.proxy.cut()
    return Injected((worker.device_id,), (1.2 + pick.amount) * LEASE_S * round(pick.which), worker.proxy.mend)


def store_away(farm: ChaosFarm, pick: Pick) -> Injected | None:
    """The store's directory is gone for a while, as when its mount is."""
    store = farm.settings.store_dir
    aside = store.with_name("store-away")
    store.rename(aside)

    def heal() -> None:
        aside.rename(store)  # fails if anybody began a second store meanwhile, as it should

    return Injected(tuple(farm.devices), (0.5 + 1.5 * pick.amount) * LEASE_S, heal)


def store_full(farm: ChaosFarm, pick: Pick) -> Injected | None:
    farm.full.touch()
    return Injected(tuple(farm.devices), (0.5 + 1.5 * pick.amount) * LEASE_S, farm.full.unlink)


def shift_clock(farm: ChaosFarm, pick: Pick) -> Injected | None:
    """The wall clock of a worker jumps by up to two days."""
    worker = _worker(farm, pick)
    worker.clock.write_text(str(round((pick.which - 0.5) * 4 * 86400)))
    return Injected((worker.device_id,), (0.5 + pick.amount) * LEASE_S, worker.clock.unlink)


def duplicate_message(farm: ChaosFarm, pick: Pick) -> Injected | None:
    worker = _worker(farm, pick)
    message = _waiting(farm, worker)
    return _push(farm, worker, message)


def late_message(farm: ChaosFarm, pick: Pick) -> Injected | None:
    """A message that was sent long ago comes once more, to its own device's queue or to another's."""
    for worker in farm.workers:
        _waiting(farm, worker)
    if len(_memory.messages) < 5:
        return None
    _, message = _memory.messages[int(pick.which * (len(_memory.messages) - 1))]
    return _push(farm, _worker(farm, pick), message)


def reorder_messages(farm: ChaosFarm, pick: Pick) -> Injected | None:
    worker = _worker(farm, pick)
    queue = farm.queue(worker)
    with contextlib.suppress(redis.RedisError):
        if farm.client.llen(queue) > 1 and farm.client.lmove(queue, queue, "RIGHT", "LEFT"):
            return Injected((worker.device_id,))
    return None


def lose_message(farm: ChaosFarm, pick: Pick) -> Injected | None:
    worker = _worker(farm, pick)
    with contextlib.suppress(redis.RedisError):
        if farm.client.rpop(farm.queue(worker)):
            return Injected((worker.device_id,))
    return None


def maintain_device(farm: ChaosFarm, pick: Pick) -> Injected | None:
    """A busy device goes into maintenance for up to two leases, and is to come back by itself."""
    worker = _worker(farm, pick)
    lasts_s = (0.5 + 1.5 * pick.amount) * LEASE_S
    if not _is_busy(worker):
        return None
    with contextlib.suppress(redis.RedisError):
        register = Register(farm.client)
        register.set_state(worker.device_id, MAINTENANCE, "chaos", until_s=register.now_s() + lasts_s)
        return Injected((worker.device_id,), lasts_s)
    return None


def cancel_job(farm: ChaosFarm, pick: Pick) -> Injected | None:
    worker = _worker(farm, pick)
    job_id = _running(farm, worker)
    with contextlib.suppress(redis.RedisError):
        if job_id is not None and farm.jobs.cancel(job_id) is not None:
            return Injected((worker.device_id,))
    return None


FAULTS = (
    Fault("SIGKILL of a runner", kill_runner),
    Fault("SIGKILL of a grandchild", kill_grandchild),
    Fault("SIGKILL of a supervisor", kill_supervisor),
    Fault("SIGKILL of a worker", kill_worker, "worker"),
    Fault("SIGKILL of a job's process, twice", kill_worker_twice, "worker", 0.7),
    Fault("SIGKILL of a pool process", kill_pool_child, "worker"),
    Fault("SIGKILL of all of a host", kill_host, "worker"),
    Fault("SIGKILL of the scheduler", kill_scheduler),
    Fault("SIGKILL of Redis", kill_redis, "broker"),
    Fault("Redis away", redis_away, "broker", 0.5),
    Fault("Redis flushed", flush_redis, "broker", 0.7),
    Fault("SIGTERM of a worker", drain_worker, "worker"),
    Fault("worker stopped beyond its lease", stop_worker, "worker"),
    Fault("network held beyond the lease", hold_network, "worker"),
    Fault("network cut", cut_network, "worker"),
    Fault("store away", store_away, "store", 0.7),
    Fault("store full", store_full, "store", 0.7),
    Fault("wall clock of a worker jumps", shift_clock, "worker", 0.7),
    Fault("message duplicated", duplicate_message),
    Fault("message late", late_message),
    Fault("messages reordered", reorder_messages, weight=0.7),
    Fault("message lost", lose_message),
    Fault("running job cancelled", cancel_job),
    Fault("device in maintenance", maintain_device, weight=0.7),
)


def _worker(farm: ChaosFarm, pick: Pick) -> Worker:
    return farm.workers[pick.victim]


def _is_busy(worker: Worker) -> bool:
    return worker.supervisor() is not None


def _running(farm: ChaosFarm, worker: Worker) -> str | None:
    """The job that runs on a worker's device, as far as Redis knows and can be asked."""
    with contextlib.suppress(redis.RedisError):
        views = farm.jobs.window(worker.device_id)
        return next((view.job_id for view in views if view.state is JobState.RUNNING), None)
    return None


def _kill(worker: Worker, process: psutil.Process | None) -> Injected | None:
    if process is None:
        return None
    try:
        process.kill()
    except psutil.Error:
        return None
    return Injected((worker.device_id,))


def _kill_of_run(farm: ChaosFarm, worker: Worker, runner: psutil.Process | None) -> Injected | None:
    if runner is not None:
        _note_kill(farm, worker, runner)
    return _kill(worker, runner)


def _note_kill(farm: ChaosFarm, worker: Worker, runner: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error, KeyError):
        farm.write_kill(runner.environ()[RUN_ENV], worker.device_id, runner.pid)


def _waiting(farm: ChaosFarm, worker: Worker) -> str | None:
    """A message that waits for a worker; it is kept in mind."""
    with contextlib.suppress(redis.RedisError):
        message = farm.client.lindex(farm.queue(worker), 0)
        if message:
            _memory.messages.append((worker.device_id, str(message)))
            return str(message)
    return None


def _push(farm: ChaosFarm, worker: Worker, message: str | None) -> Injected | None:
    if message is None:
        return None
    with contextlib.suppress(redis.RedisError):
        farm.client.lpush(farm.queue(worker), message)
        return Injected((worker.device_id,))
    return None
