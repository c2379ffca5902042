# SPDX-License-Identifier: Apache-2.0
"""One worker: it serves one device, alone, and announces it while it lives.

Celery's main process holds the worker's lock and the heartbeat. Its pool has one child, which runs the jobs with its
own connection to the broker: a connection that crosses a fork would mix up both sides' answers.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace

import redis

import farm
from farm.broker.canaries import CanaryBook
from farm.broker.connection import connect
from farm.broker.jobs import JobStore
from farm.broker.register import HEARTBEAT_S, Register, TakenError
from farm.contract.device import Announcement, DeviceInfo
from farm.contract.names import check_name
from farm.errors import FarmError, UnavailableError
from farm.settings import Settings
from farm.store.remote import worker_store
from workers.daemon import attempts, lock, stragglers
from workers.daemon.bench import Bench
from workers.daemon.bundle import read_island
from workers.daemon.canary import CanaryWord
from workers.daemon.clock import boottime
from workers.daemon.execute import execute
from workers.daemon.hand_back import HandBack, tell_children_after
from workers.daemon.host import boot_id
from workers.daemon.mover import Mover, SettlingJobs
from workers.daemon.namesake import refuse_namesake
from workers.daemon.probe import find_device, probe_stacks
from workers.daemon.provenance import provenance
from workers.daemon.reporter import Progress
from workers.daemon.warm import WarmRunners

log = logging.getLogger(__name__)

UPGRADE_HINT = "docs/deploy.md says how a farm is upgraded."

#: How long a worker that starts waits for the last runner of the one before it to be gone.
_TAKE_BACK_S = 15.0
#: A worker that was just killed still has to die.
_START_WAIT_S = 1.0


class Service:
    """A worker of one device. Constructing it touches nothing but facts about this host.

    Raises:
        UsageError: this host has no such device.
    """

    def __init__(self, settings: Settings, device_id: str | None = None) -> None:
        self.settings = settings
        self.device: DeviceInfo = find_device(settings, device_id)
        self.bench: Bench | None = None
        #: Why this worker ended by itself: another machine serves its device.
        self.taken: TakenError | None = None
        self._machine = boot_id()
        self._held = ExitStack()
        self._stop = threading.Event()
        self._heart: threading.Thread | None = None
        self._flushing: threading.Thread | None = None
        self._client: redis.Redis | None = None
        self._owner = "nobody"
        self._said: Sequence[str] = ()
        self._taking_back: threading.Thread | None = None
        self._hand_back = HandBack()
        self._jobs: tuple[SettlingJobs, Mover] | None = None

    def start(self) -> None:
        """Take the worker's lock and learn what the stacks can do. In Celery's main process, before it forks.

        Raises:
            UnavailableError: another worker serves the device, here or on another machine of this name, or the lock
                directory or home cannot be used.
        """
        if self.bench is not None:
            return
        settings, device = self.settings, self.device
        who = lock.Holder(os.getpid(), f"worker of {device.device_id}", str(settings.home), time.time())
        path = lock.worker_lock_path(settings.lock_dir, device.device_id)
        try:
            self._held.enter_context(lock.hold(path, who, wait_s=_START_WAIT_S))
        except lock.DeviceBusyError as error:
            raise UnavailableError(
                f"device {device.device_id} has a worker already: {lock.read_holder(path) or path}",
                hint="One worker serves a device. Stop the other one, or serve another device.",
            ) from error
        try:
            self._refuse_namesake()
            island = read_island()
            bundle = island.install(settings.cache_dir)
        except TakenError:
            self._held.close()
            raise
        except OSError as error:
            self._held.close()
            raise UnavailableError(
                f"{settings.cache_dir} cannot be used: {error}", hint="Make FARM_HOME a directory you can write to."
            ) from error
        stacks = probe_stacks(settings, bundle, device)
        for stack in stacks:
            problems = stack.problems or "no problems"
            log.info("stack %s: Python %s, %s", stack.name, stack.python_version or "?", problems)
        facts = provenance(settings, bundle.digest)
        self.bench = Bench(settings, device, stacks, island, worker_store(settings), facts, warm=WarmRunners(settings))

    def _refuse_namesake(self) -> None:
        """A broker that is away is no hindrance: the first announcement will say it."""
        try:
            with closing(connect(self.settings)) as client:
                refuse_namesake(Register(client), self.device.device_id, self._machine)
        except redis.RedisError as error:
            log.warning("whether another machine serves this device is not known yet: %s", error)

    def begin_heartbeat(self) -> None:
        """Announce the device now and every 10 s, and move what the spool holds. In the main process."""
        if self._heart is not None:
            return
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._heart.start()

    def stop(self) -> None:
        """Say that the device is no longer served, and give up the worker's lock. Harmless when repeated."""
        self._stop.set()
        if self._heart is not None:
            self._heart.join(timeout=30)
            self._heart = None
            try:
                if self.taken is None:
                    Register(connect(self.settings)).withdraw(self.device.device_id)
            except (FarmError, redis.RedisError) as error:
                log.warning("the device could not be withdrawn from the register: %s", error)
        self._held.close()
        self.bench = None

    def enter_child(self) -> None:
        """Start anew in a freshly forked pool process, and take back what a killed one before it left claimed."""
        self._client, self._jobs = None, None
        self._owner = f"{self.device.host}/{os.getpid()}/{secrets.token_hex(4)}"
        self._taking_back = threading.Thread(target=self._take_back, name="take-back", daemon=True)
        self._taking_back.start()
        self._hand_back.listen()

    def begin_to_end(self) -> None:
        """This worker was told to end: its job may go on for `drain_limit_s`. In the main process."""
        if self.settings.drain_limit_s is not None:
            tell_children_after(self.settings.drain_limit_s)

    def run_job(self, job_id: str, on_start: Callable[[str], None], on_progress: Callable[[Progress], None]) -> str:
        """Claim a job by its id and run it; say in one line how it went. `on_start` is told the job's name.

        Raises:
            ValueError: `job_id` is no job id.
        """
        check_name(job_id, "job id")
        if self.bench is None:
            raise UnavailableError("this worker has not been started", hint="Start it with `farm worker`.")
        if self._taking_back is not None:
            self._taking_back.join(timeout=2 * _TAKE_BACK_S)
        refusal = self._refusal()
        if refusal is not None:
            return f"not run: {refusal}"
        jobs, mover = self._settling()
        mover.poke()
        claimed_at = boottime()
        claim = jobs.claim(job_id, self.device.device_id, self._owner, self.settings.lease_s)
        if isinstance(claim, str):
            return f"not run: {claim}"
        on_start(claim.job.name)
        canary = CanaryWord(CanaryBook(self._connection()), self.device.device_id)
        bench = replace(self.bench, doubts=canary.doubts, mover=mover)
        return execute(bench, jobs, claim, claimed_at, on_progress, self._hand_back)

    def leave_child(self) -> None:
        """A pool process ends: first come the jobs whose records are still on their way."""
        if self._jobs is not None:
            self._jobs[0].join()

    def _settling(self) -> tuple[SettlingJobs, Mover]:
        """This process's job states, which end jobs beside the next one, and what moves their records."""
        if self.bench is None:
            raise UnavailableError("this worker has not been started", hint="Start it with `farm worker`.")
        if self._jobs is None:
            mover = Mover(self.bench.spool, self.bench.store)
            self._jobs = SettlingJobs(self._connection(), mover, self.settings.lease_s), mover
        return self._jobs

    def _connection(self) -> redis.Redis:
        """This process's connection."""
        if self._client is None:
            self._client = connect(self.settings)
        return self._client

    def _refusal(self) -> str | None:
        """Why this worker must take no job. A connection that idled and has gone stale is made anew."""
        try:
            return self._ask_refusal()
        except redis.RedisError:
            # Jobs that settle may use it still: redis-py itself makes the connection anew.
            return self._ask_refusal()

    def _ask_refusal(self) -> str | None:
        register, device_id = Register(self._connection()), self.device.device_id
        misfit = register.misfit()
        age_s = register.elsewhere(device_id, self._machine) if misfit is None else None
        return misfit if age_s is None else TakenError(device_id, age_s).message

    def _take_back(self) -> None:
        """End the leases of earlier workers of this device, once the device's lock proves that their runs are dead."""
        if self.bench is None:
            return
        who = lock.Holder(os.getpid(), "a worker that starts", str(self.settings.home), time.time())
        try:
            with lock.hold(self.bench.lock_path, who, wait_s=_TAKE_BACK_S, stop=self._stop):
                stragglers.kill(self.bench.marks)
                attempts.set_aside_leftovers(self.settings.work_dir, self.device.device_id)
                client = connect(self.settings)
                if Register(client).elsewhere(self.device.device_id, self._machine) is not None:
                    return  # they may be another machine's, at work
                jobs = JobStore(client)
                # First: once the leases are ended, a job that is given up gets its record.
                self._keep_lost(jobs)
                count = jobs.disown(self.device.device_id, self._owner)
            if count:
                log.warning("%d job(s) of an earlier worker of this device are free again", count)
        except (FarmError, redis.RedisError, OSError, lock.WaitAbandonedError) as error:
            log.warning("jobs of an earlier worker wait for their lease to end: %s", error)

    def _beat(self) -> None:
        trouble: str | None = None
        register: Register | None = None
        while True:
            try:
                register = register or Register(connect(self.settings))
                self._announce(register)
                trouble = None
            except TakenError as error:
                self._end_as(error)
                return
            except (FarmError, redis.RedisError) as error:
                register = None
                if trouble is None:
                    log.warning("the device cannot be announced: %s", error)
                trouble = str(error)
            if self._stop.wait(HEARTBEAT_S if trouble is None else 2.0):
                return

    def _end_as(self, taken: TakenError) -> None:
        """End this worker: what it measures now would be told as the other machine's, and goes back to the line."""
        log.error("%s", taken)
        self.taken = taken
        tell_children_after(0)
        os.kill(os.getpid(), signal.SIGTERM)

    def _announce(self, register: Register) -> None:
        if self.bench is None:
            return
        misfit = register.misfit()
        if misfit is not None:
            raise UnavailableError(misfit, hint=UPGRADE_HINT)
        announcement = Announcement(self.device, self.bench.stacks, farm.__version__, os.getpid())
        self._said = register.announce(announcement, self._said, self._machine)
        self._begin_to_flush()
        if attempts.lost_of(self.settings.work_dir, self.device.device_id):
            self._keep_lost(JobStore(connect(self.settings)))

    def _keep_lost(self, jobs: JobStore) -> None:
        if self.bench is not None:
            attempts.keep_lost(self.settings.work_dir, self.device.device_id, self.bench.store, jobs)

    def _begin_to_flush(self) -> None:
        """Move what the spool holds, beside: an engine on a slow line must not hold up the next announcement."""
        if self._flushing is None or not self._flushing.is_alive():
            self._flushing = threading.Thread(target=self._flush_spool, name="spool", daemon=True)
            self._flushing.start()

    def _flush_spool(self) -> None:
        if self.bench is None:
            return
        try:
            self.bench.spool.flush(self.bench.store)
        except OSError as error:
            log.error("the spool %s cannot be used: %s", self.settings.spool_dir, error)
