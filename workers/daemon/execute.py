# SPDX-License-Identifier: Apache-2.0
"""One job from claim to finish: hold the device, prepare, measure the ladder, take the accuracy, record each run."""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import redis

from farm.broker.jobs import Claim, JobState, JobStore
from farm.contract.canonical import sha256_file
from farm.contract.job import FILE_SOURCES, JobSpec
from farm.contract.outcome import Failure, Outcome
from farm.contract.record import ACCURACY, LATENCY, PIPELINE
from farm.devices import Refusal, choose_stack
from farm.errors import FarmError, IntegrityError, UnavailableError, UsageError
from workers.daemon import attempts, lock, stragglers
from workers.daemon import control as control_dirs
from workers.daemon.bench import Bench
from workers.daemon.clock import boottime
from workers.daemon.collect import Collected, JobFacts, RunFacts, collect
from workers.daemon.hand_back import HandBack
from workers.daemon.ladder import PREPARE, Run, Stop
from workers.daemon.lease import CANCELLED, EXPIRED, FENCED, HANDED_BACK, Lease
from workers.daemon.ledger import Ledger
from workers.daemon.nvml import Gpu, find_gpu, open_nvml
from workers.daemon.pins import fetch_pins
from workers.daemon.point import Point
from workers.daemon.preflight import Meanwhile, Preflight, preflight
from workers.daemon.preflight_gpu import join, preflight_gpu, preflight_soc
from workers.daemon.profiles import with_profiles
from workers.daemon.replicate import Replication, replication
from workers.daemon.reporter import Progress, Reporter
from workers.daemon.retry import Retries
from workers.daemon.runs import Runs
from workers.daemon.settle import Settle
from workers.daemon.teller import Teller

log = logging.getLogger(__name__)

#: Outcomes that are results rather than faults: a job of only such points is `done`, not `failed`.
RESULTS = frozenset({Outcome.OK, Outcome.UNSUPPORTED, Outcome.OUT_OF_MEMORY})

#: What a run of each mode leaves a record of.
_POINTS = {"measure": LATENCY, "accuracy": ACCURACY, "pipeline": PIPELINE}

#: A job that is handed back comes again at once: never faster than this.
_HAND_BACK_S = 5.0


def execute(
    bench: Bench,
    jobs: JobStore,
    claim: Claim,
    claimed_at: float,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
    hand_back: HandBack | None = None,
) -> str:
    """Run a claimed job to its end and say in one line how it went. What is wrong with the job is no exception.

    `claimed_at` is CLOCK_BOOTTIME from before the claim was asked for: the lease cannot have begun earlier.
    """
    with (
        Lease(jobs, claim, bench.settings.lease_s, claimed_at, bench.settings.drain_limit_s) as lease,
        (hand_back or HandBack()).of(lease),
        Reporter(lambda progress: jobs.progress(claim, progress), on_progress) as reporter,
    ):
        return _Execution(bench, jobs, claim, lease, reporter).run()


def job_state(outcomes: Mapping[str, int], *, cancelled: bool = False) -> JobState:
    """How a job ended, from its points: `failed` if any of them is neither ok nor a result in its own right. Pure."""
    if cancelled:
        return JobState.CANCELLED
    return JobState.DONE if all(Outcome(name) in RESULTS for name in outcomes) else JobState.FAILED


class _Execution:
    """One attempt at one job."""

    def __init__(self, bench: Bench, jobs: JobStore, claim: Claim, lease: Lease, reporter: Reporter) -> None:
        self._bench = bench
        self._settings = bench.settings
        self._jobs = jobs
        self._claim = claim
        self._job: JobSpec = claim.job
        self._lease = lease
        self._ledger = Ledger(claim.job, bench.spool, bench.store)
        self._teller = Teller(claim.job, reporter, lambda: self._ledger.outcomes)
        self._settle = Settle(bench.settings.idle_wait_s, bench.settings.cool_down_s, bench.quiet)
        self._retries = Retries(bench.settings.suspect_retries)
        self._gpu: Gpu | None = None
        self._runs = Runs(bench, claim, lease, self._teller)
        self._meanwhile: float | None = None
        self._trouble: str | None = None
        self._unrecorded = False
        cache_dir = bench.settings.cache_dir
        self._facts = JobFacts(
            claim.job, claim.attempt, bench.device, None, dict(bench.provenance), cache_dir, bench.limits
        )

    def run(self) -> str:
        """Do it all; the device is free again before the job counts as finished."""
        job = self._job
        who = lock.Holder(os.getpid(), f"job {job.job_id}, {job.name}", str(self._settings.home), time.time())
        began = time.monotonic()
        try:
            with lock.hold(
                self._bench.lock_path,
                who,
                wait_s=self._settings.device_wait_s,
                stop=self._lease.ended,
                on_wait=self._teller.waits_for_device,
            ) as self._runs.lock_fd:
                self._measure_on_device()
        except lock.WaitAbandonedError:
            log.info("job %s was given up while it waited for the device", job.job_id)
        except UnavailableError as error:
            return self._hand_back(error.message, began)
        except Exception as error:  # noqa: BLE001 - the boundary: one job's trouble must not end the worker
            self._farm_failed(error)
        finally:
            self._leave()
        return self._finish()

    def _leave(self) -> None:
        """Clear the attempt's directory away; one that lost its claim leaves its logs, the job may yet be given up."""
        work_dir, device_id = self._settings.work_dir, self._bench.device.device_id
        directory = control_dirs.job_dir(work_dir, device_id, self._job.job_id, self._claim.attempt)
        if self._lease.reason in (FENCED, EXPIRED) and directory.is_dir():
            with suppress(OSError):
                attempts.set_aside(directory)
            attempts.keep_lost(work_dir, device_id, self._bench.store, self._jobs)
        attempts.discard(directory)

    def _measure_on_device(self) -> None:
        if self._bench.device.kind != "gpu":
            self._measure_all()
            return
        with open_nvml() as gpus:
            self._gpu = find_gpu(gpus, self._bench.device)
            self._measure_all()

    def _preflight(self, *, timed: bool = True) -> Preflight:
        # Good for one look: the next run begins later.
        others, self._meanwhile = self._meanwhile, None
        found = preflight(limits=self._facts.limits, timed=timed, others=others)
        host = join(found, Preflight(flags=self._bench.doubts(self._job)))
        if self._bench.device.kind == "gpu":
            return join(host, preflight_gpu(self._gpu))
        return join(host, preflight_soc()) if self._bench.device.kind == "soc" else host

    def _measure_all(self) -> None:
        if not self._still_ours():
            return
        killed = stragglers.kill(self._bench.marks)
        if killed:
            log.warning("killed processes of an earlier run on this device: %s", killed)
        attempts.set_aside_leftovers(self._settings.work_dir, self._bench.device.device_id)
        self._ledger.resume()
        if self._next() is None or not self._make_ready():
            return
        prepared = self._prepare()
        while prepared is not None and self._lease.reason is None:
            step = self._next()
            if step is None:
                return
            self._run(step, prepared)

    def _next(self) -> Run | None:
        """The run to make next, if any; an accuracy that cannot be taken is recorded as that at once."""
        step = self._ledger.next()
        if isinstance(step, Stop):
            return None
        if isinstance(step, int):
            return Run("measure" if self._job.pipeline is None else "pipeline", step)
        if step.batch_size is not None:
            return Run("accuracy", step.batch_size)
        self._ledger.record_no_accuracy(self._facts)
        return None

    def _still_ours(self) -> bool:
        try:
            if not self._jobs.running(self._claim):
                self._lease.end(FENCED)
        except redis.RedisError as error:
            log.warning("job %s could not be marked as running: %s", self._job.job_id, error)
        return self._lease.reason is None

    def _make_ready(self) -> bool:
        """Choose the stack, fetch the model and what is pinned; record what makes any of it impossible."""
        job, bench = self._job, self._bench
        stack = choose_stack(
            job.workflow, job.precision, bench.device, bench.stacks, job.options, job.model.source, job.stack
        )
        if isinstance(stack, Refusal):
            self._record_rest(Outcome.UNSUPPORTED, Failure("match", stack.reference, stack.reason, stack.hint))
            return False
        self._facts = replace(self._facts, stack=stack)
        self._runs.stack = stack
        try:
            self._runs.model_file = self._fetch_model()
        except (UsageError, IntegrityError) as error:
            self._record_rest(Outcome.FAILED, Failure("start", "model-missing", error.message, error.hint))
            return False
        pinned = fetch_pins(job, bench.store, self._settings.cache_dir / "pinned")
        if isinstance(pinned, Failure):
            self._record_rest(Outcome.FAILED, pinned)
            return False
        self._runs.pinned = pinned
        return True

    def _fetch_model(self) -> str | None:
        """The model's file, copied from the store where it is kept there."""
        model = self._job.model
        kind, _, value = model.weights.partition(":")
        sha256 = model.onnx_sha256 if model.source in FILE_SOURCES else value if kind == "sha256" else None
        if sha256 is None:
            return None
        path = self._settings.cache_dir / "inputs" / sha256
        if not path.is_file() or sha256_file(str(path)) != sha256:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._bench.store.blobs.get(sha256, path)
        return str(path)

    def _prepare(self) -> RunFacts | None:
        before, meanwhile = self._preflight(timed=False), Meanwhile()
        run = self._runs.launch(PREPARE, before)
        report = run.ended.report
        if report is not None and report.user_s is not None and report.system_s is not None:
            self._meanwhile = meanwhile.others(report.user_s + report.system_s)
        if run.outcome is Outcome.OK:
            return run
        if self._lease.reason is None and run.failure is not None:
            self._record_rest(run.outcome, run.failure, run)
        return None

    def _run(self, what: Run, prepared: RunFacts) -> None:
        """Measure a point in its processes, or take the accuracy or a pipeline in one, and record it."""
        latency, point = what.mode == "measure", _POINTS[what.mode]
        wanted = replication(self._job.protocol) if latency else Replication()

        def make(process: Run) -> Collected:
            run = self._runs.launch(
                process, self._preflight(timed=False) if point == ACCURACY else self._settled(process)
            )
            return collect(self._facts, what.batch_size or 0, run, prepared, self._ledger.is_stored, point)

        retries = self._retries if latency else Retries(0)
        collected = Point(wanted, make, retries, self._lease.ended.is_set, self._facts.limits).measure(what)
        if latency:
            collected = with_profiles(
                collected, what, lambda run: self._runs.launch(run, self._preflight()), self._lease.ended.is_set
            )
        if not self._lease.lost:
            self._ledger.record(collected)
        elif collected.record.outcome is Outcome.OK:
            self._ledger.keep_late(collected)

    def _record_rest(self, outcome: Outcome, failure: Failure, run: RunFacts | None = None) -> None:
        # Memory that runs out while the smallest batch is prepared ends the ladder as it does at a larger one.
        ends = {Outcome.CANCELLED: Stop.CANCELLED, Outcome.OUT_OF_MEMORY: Stop.OUT_OF_MEMORY}
        stop = ends.get(outcome, Stop.FAILED)
        self._ledger.record_rest(self._facts, outcome, failure, stop, run)

    def _farm_failed(self, error: Exception) -> None:
        log.exception("job %s: the farm itself failed", self._job.job_id)
        self._trouble = f"{type(error).__name__}: {error}"
        hint = "Look at the worker's log; if its disk and its store are sound, report it."
        message = f"the farm itself failed: {self._trouble}"
        failure = Failure("start", "farm-error", message, hint, traceback.format_exc()[-4000:])
        if not self._lease.lost:
            self._unrecorded = True
            with suppress(OSError, FarmError, ValueError):
                self._record_rest(Outcome.FAILED, failure)
                self._unrecorded = False

    def _hand_back(self, why: str, began: float) -> str:
        """The device, the store or the worker cannot be had now: somebody, perhaps this worker, tries again later."""
        self._lease.ended.wait(max(0.0, _HAND_BACK_S - (time.monotonic() - began)))
        try:
            released = self._jobs.release(self._claim, why)
        except redis.RedisError as away:
            return f"{why}; and the job could not be handed back: {away}"
        return f"{'handed back' if released else 'lost'}: {why}"

    def _finish(self) -> str:
        if self._lease.reason == HANDED_BACK:
            return self._hand_back("its worker was told to end, or its device to stand still", time.monotonic())
        if self._lease.lost:
            return f"lost: {self._lease.reason}"
        cancelled = self._lease.reason == CANCELLED and not self._is_complete()
        if cancelled:
            failure = Failure("start", "cancelled", "the job was cancelled before this point was measured")
            self._record_rest(Outcome.CANCELLED, failure)
        outcomes = self._ledger.outcomes
        state = job_state(outcomes, cancelled=cancelled)
        summary: dict[str, Any] = {"outcomes": outcomes, "runs": self._ledger.runs, "attempt": self._claim.attempt}
        if self._trouble is not None:
            state, summary["error"] = JobState.FAILED, self._trouble
        kept = self._tell_finished(state, summary)
        counts = ", ".join(f"{count} {name}" for name, count in outcomes.items())
        return f"{state if kept else 'lost'}: {counts or 'nothing recorded'}"

    def _is_complete(self) -> bool:
        """Whether the cancellation came too late to leave anything out."""
        return isinstance(self._ledger.next(), Stop) and str(Outcome.CANCELLED) not in self._ledger.outcomes

    def _tell_finished(self, state: JobState, summary: dict[str, Any]) -> bool:
        """Finish the job, for as long as the lease lasts if the broker is away. The records are safe either way."""
        pause = threading.Event()
        while True:
            try:
                return self._jobs.finish(self._claim, state, summary, owed=self._unrecorded)
            except redis.RedisError as error:
                log.warning("job %s could not be finished yet: %s", self._job.job_id, error)
                if boottime() >= self._lease.deadline or self._lease.lost:
                    return False
            pause.wait(1.0)

    def _settled(self, what: Run) -> Preflight:
        return self._settle.until_fit(
            self._preflight, self._lease.ended, lambda note: self._teller.waits_for_host(what, note)
        )
