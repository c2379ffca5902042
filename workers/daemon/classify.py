# SPDX-License-Identifier: Apache-2.0
"""From how a runner's process ended and what it left behind to exactly one outcome. Pure.

The wait status is believed before anything the runner says: who dies after writing `ok` has not ended well.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

from farm.contract.outcome import Failure, Outcome
from farm.contract.run import RunResult
from workers.daemon.bundle import EXIT_PYTHON_TOO_OLD
from workers.daemon.launch import Ended

#: What the supervisor says about a run that was cut off with the claim to its job: nobody's failure, and no record.
LEASE_REASONS = frozenset({"lease-expired", "fenced", "handed-back", "daemon-died", "supervisor-told-to-end"})

_SHELL_SIGNAL_BASE = 128

_SIGNAL_HINTS: dict[int, str] = {
    signal.SIGSEGV: "A native library read or wrote memory that is not its own: try another version of it.",
    signal.SIGABRT: "A native library gave up; the end of the log usually says why.",
    signal.SIGILL: "A library uses instructions that this processor does not have: install a build for it.",
    signal.SIGBUS: "A mapped file was cut short or a disk or /dev/shm is full.",
    signal.SIGFPE: "A native library divided by zero.",
    signal.SIGKILL: "Somebody on this host killed it, or the kernel did so without leaving a trace: look at `dmesg`.",
    signal.SIGTERM: "Somebody on this host told it to end.",
}


@dataclass(frozen=True)
class Evidence:
    """All that is known after a run. `oom_kills`: by how much the kernel's count rose meanwhile; None: unknown.

    `result_fault` says why what was left is no result; no result and no fault: nothing was left.
    """

    run_id: str
    ended: Ended
    result: RunResult | None = None
    result_fault: str | None = None
    log_tail: str = ""
    oom_kills: int | None = None


Verdict = tuple[Outcome, Failure | None]


def classify(evidence: Evidence) -> Verdict:
    """Decide how the run ended."""
    report = evidence.ended.report
    if report is None:
        return _failure(
            evidence,
            Outcome.CRASHED,
            "supervisor-lost",
            "the process that watched the runner vanished or could not end it",
            "Look for the kernel's or somebody's kill on this host (`dmesg`).",
        )
    if report.error is not None:
        return _failure(
            evidence,
            Outcome.FAILED,
            "interpreter-missing",
            f"the stack's interpreter cannot be started: {report.error}",
            "Correct the stack's `python` in the settings, or install it.",
        )
    if report.reason is not None:
        return _ended_by_us(evidence, report.reason)
    if report.signal is not None:
        return _by_signal(evidence, report.signal, "")
    return _by_exit_code(evidence, report.exit_code or 0)


def _ended_by_us(evidence: Evidence, reason: str) -> Verdict:
    if reason in LEASE_REASONS:
        return _failure(
            evidence,
            Outcome.LOST,
            "lease-lost",
            f"the run was ended because its worker lost the job ({reason})",
            "Nothing to do: the job is tried again.",
        )
    overdue = evidence.ended.overdue
    if reason == "stage-limit" and overdue is not None:
        return Outcome.TIMED_OUT, Failure(
            overdue.stage,
            "stage-limit",
            f"stage {overdue.stage} was still running after its limit of {overdue.limit_s:g} s",
            "Raise the stage's limit in the protocol (`stage_limits_s`), or use a smaller model or batch.",
            evidence.log_tail or None,
        )
    if reason == "cancelled":
        return _failure(evidence, Outcome.CANCELLED, "cancelled", "the job was cancelled while it ran", None)
    return _failure(evidence, Outcome.FAILED, "ended", f"the run was ended: {reason}", None)


def _by_signal(evidence: Evidence, number: int, how: str) -> Verdict:
    name = _signal_name(number)
    stage = evidence.ended.last_stage
    if number == signal.SIGKILL and evidence.oom_kills:
        return _failure(
            evidence,
            Outcome.OUT_OF_MEMORY,
            "host-out-of-memory",
            f"the kernel killed the runner in stage {stage} because the host ran out of memory",
            "Use a smaller batch or model, or a host or container with more memory.",
        )
    if evidence.result is not None and not evidence.result_fault:
        where = "while it was shutting down, after it had written its result"
    else:
        where = f"in stage {stage}"
    return _failure(
        evidence,
        Outcome.CRASHED,
        name.lower(),
        f"the runner was killed by signal {name}{how} {where}",
        _SIGNAL_HINTS.get(number),
    )


def _by_exit_code(evidence: Evidence, code: int) -> Verdict:
    if code == EXIT_PYTHON_TOO_OLD:
        return _failure(
            evidence,
            Outcome.UNSUPPORTED,
            "python-too-old",
            "the stack's interpreter is older than Python 3.8",
            "Give the stack an interpreter of Python 3.8 or newer.",
        )
    # A wrapper script (a container, an environment loader) reports its child's signal in its own exit code.
    if code > _SHELL_SIGNAL_BASE and _known_signal(code - _SHELL_SIGNAL_BASE):
        return _by_signal(evidence, code - _SHELL_SIGNAL_BASE, f" (exit code {code})")
    if code != 0:
        return _failure(
            evidence,
            Outcome.FAILED,
            "runner-exit",
            f"the runner ended with exit code {code} in stage {evidence.ended.last_stage}",
            "The end of the log says more.",
        )
    return _by_result(evidence)


def _by_result(evidence: Evidence) -> Verdict:
    result = evidence.result
    if evidence.result_fault:
        return _failure(
            evidence,
            Outcome.FAILED,
            "damaged-result",
            f"the runner left a result that cannot be used: {evidence.result_fault}",
            "A full disk or a foreign program in the control directory; if neither, report it.",
        )
    if result is None:
        return _failure(
            evidence,
            Outcome.FAILED,
            "no-result",
            f"the runner ended in stage {evidence.ended.last_stage} without a result",
            "A library ended the process; the end of the log may say which.",
        )
    if result.run_id != evidence.run_id:
        return _failure(
            evidence,
            Outcome.FAILED,
            "foreign-result",
            f"the result is about run {result.run_id}, not {evidence.run_id}",
            "Two programs share one control directory; if that cannot be, report it.",
        )
    if result.outcome is Outcome.OK:
        return Outcome.OK, None
    return result.outcome, result.failure or Failure(
        evidence.ended.last_stage,
        "unexplained",
        f"the runner reported {result.outcome} without a reason",
        None,
        evidence.log_tail or None,
    )


def _failure(evidence: Evidence, outcome: Outcome, reference: str, message: str, hint: str | None) -> Verdict:
    stage = evidence.ended.last_stage
    return outcome, Failure(stage, reference, message, hint, evidence.log_tail or None)


def _known_signal(number: int) -> signal.Signals | None:
    try:
        return signal.Signals(number)
    except ValueError:
        return None


def _signal_name(number: int) -> str:
    known = _known_signal(number)
    return known.name if known else f"SIG{number}"
