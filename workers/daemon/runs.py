# SPDX-License-Identifier: Apache-2.0
"""The runs of one attempt at a job: what each runner is told, how it is started, and what it is seen to do."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from farm.broker.jobs import Claim
from farm.contract.device import StackInfo
from farm.contract.protocols import stage_limits_s
from farm.contract.run import PinnedFile, RunRequest
from farm.errors import UsageError
from farm.settings import StackSettings
from workers.daemon import control as control_dirs
from workers.daemon import stragglers
from workers.daemon.bench import Bench
from workers.daemon.classify import Evidence, classify
from workers.daemon.clock import utc_now
from workers.daemon.collect import RunFacts
from workers.daemon.ladder import Run
from workers.daemon.launch import GRACE_S, Fork, Launched, Plan, device_environment, runner_environment
from workers.daemon.lease import EXPIRED, Lease
from workers.daemon.preflight import Preflight, oom_kills
from workers.daemon.telemetry.process import TelemetryProcess
from workers.daemon.teller import Teller
from workers.daemon.warm import choose
from workers.daemon.warm_parent import Key


class Runs:
    """Starts the runners of one attempt, each bound to the claim's lease.

    Set before the first of them: the held device's `lock_fd`, the chosen `stack`, and the files it is to use.
    """

    def __init__(self, bench: Bench, claim: Claim, lease: Lease, teller: Teller) -> None:
        self._bench = bench
        self._settings = bench.settings
        self._claim = claim
        self._job = claim.job
        self._lease = lease
        self._teller = teller
        self._bundle: Path | None = None
        self.lock_fd = -1
        self.stack: StackInfo | None = None
        self.model_file: str | None = None
        self.pinned: list[PinnedFile] = []

    def launch(self, what: Run, before: Preflight) -> RunFacts:
        """Start one runner and stay with it to its end. `before`: how the host was found.

        Raises:
            UsageError: the stack is not in this worker's settings.
            OSError: its directory cannot be made, or its process not started.
        """
        request = self._request(what)
        control = control_dirs.prepare(self._settings.work_dir, request, self._claim.attempt, what.process)
        started_at, kills_before = utc_now(), oom_kills()
        plan = self._plan(control, request)
        telemetry = self._telemetry(control) if what.mode in ("measure", "timeline") else None
        with ExitStack() as stack:
            if telemetry is not None:
                stack.enter_context(telemetry)
            launched = stack.enter_context(Launched(plan))
            self._lease.bind(launched)
            try:
                ended = launched.follow(lambda clock: self._teller.at_stage(what, clock))
            finally:
                self._lease.unbind()
        if ended.report is None:
            stragglers.kill(self._bench.marks)
        elif ended.report.reason == EXPIRED:
            self._lease.end(EXPIRED)
        read = control_dirs.read_result(control, measured=what.mode == "measure")
        kills_after = oom_kills()
        kills = None if kills_before is None or kills_after is None else kills_after - kills_before
        tail = control_dirs.log_tail(control)
        outcome, failure = classify(Evidence(request.run_id, ended, read.result, read.fault, tail, kills))
        trace = telemetry.trace if telemetry else None
        return RunFacts(outcome, failure, started_at, utc_now(), control, ended, read, before, trace)

    def _telemetry(self, control: control_dirs.Control) -> TelemetryProcess | None:
        rate_hz = self._settings.telemetry_hz
        return TelemetryProcess(self._bench.device, control, rate_hz) if rate_hz > 0 else None

    def _request(self, what: Run) -> RunRequest:
        return RunRequest(
            run_id=what.run_id(self._job),
            mode=what.mode,
            job=self._job,
            device=self._bench.device,
            cache_dir=str(self._settings.cache_dir / "prepared"),
            batch_size=what.batch_size,
            model_file=self.model_file,
            pinned=self.pinned,
        )

    def _plan(self, control: control_dirs.Control, request: RunRequest) -> Plan:
        stack = self.stack
        configured = self._settings.stacks.get(stack.name) if stack else None
        if configured is None:
            raise UsageError("the chosen stack is not in this worker's settings", hint="Restart the worker.")
        env = {**configured.env, **device_environment(self._bench.device)}
        # Looked at once in a job: that reads every file of it.
        self._bundle = bundle = self._bundle or self._bench.island.install(self._settings.cache_dir).path
        fork, why = self._fork(configured, env, bundle, request.mode)
        return Plan(
            python=configured.python,
            bundle=bundle,
            control=control,
            env={**env, **self._bench.marks, stragglers.RUN_ENV: request.run_id},
            limits_s=stage_limits_s(self._job),
            lock_fd=self.lock_fd,
            deadline=self._lease.deadline,
            grace_s=min(GRACE_S, self._settings.lease_s / 20),
            fork=fork,
            why_fresh=why,
        )

    def _fork(
        self, stack: StackSettings, env: Mapping[str, str], bundle: Path, mode: str
    ) -> tuple[Fork | None, str | None]:
        """How to fork the run from a warm parent, or why it is started afresh."""
        warm, job = self._bench.warm, self._job
        if warm is None:
            return None, "the worker keeps no warm parents"
        policy = stack.warm_runners or self._settings.warm_runners
        choice = choose(policy, job, self._bench.device.kind, mode)
        if choice.modules is None:
            return None, choice.why
        key = Key(stack.python, bundle, tuple(sorted(runner_environment(env).items())), choice.modules)
        return lambda lock_fd, log_fd: warm.fork(key, lock_fd, log_fd, self._lease.ended), None
