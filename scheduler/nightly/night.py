# SPDX-License-Identifier: Apache-2.0
"""The course of a night: step after step, each entered in the night's document before and after.

Whoever is killed, the next one goes on with the step that was begun: every step can be done again. A step that fails
is entered with its problem, and the night goes on: a canary that cannot be made is no reason to measure nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import redis

from farm.errors import FarmError, UnavailableError, UsageError
from farm.nightly_settings import NightlySettings
from farm.secrets import hide, traceback_text
from scheduler.nightly import measure, verdict
from scheduler.nightly.book import DONE, Book, moment, written
from scheduler.nightly.world import World

log = logging.getLogger("inferfarm.nightly")

#: How long a step waits for what is away, such as a broker that restarts, counted from when the step was begun.
PATIENCE = timedelta(minutes=5)
_RETRY_S = 5.0

Step = Callable[["NightRun", dict[str, Any]], None]


class NightRun:
    """One night. `go` takes it to its end, from wherever it stands."""

    def __init__(self, book: Book, world: World, settings: NightlySettings) -> None:
        self.book = book
        self.world = world
        self.settings = settings
        #: What the judgement said, while this process lives: it is made again from the records where it is needed.
        self.found: Any = None

    @property
    def deadline(self) -> datetime:
        """From here on nothing of the night's sweeps is waited for."""
        return moment(self.book.run.get("deadline_at")) or self.world.now()

    @property
    def sweep_ids(self) -> list[str]:
        """The sweeps that were submitted."""
        return list(dict.fromkeys(row["sweep_id"] for row in self.book.run.get("sweeps", []) if row.get("sweep_id")))

    def before(self) -> dict[str, str]:
        """What people were told last, on a night before this one."""
        earlier = [run for name, run in self.book.earlier() if isinstance(run.get("told"), dict)]
        return dict(earlier[-1]["told"]) if earlier else {}

    def go(self) -> None:
        """Do all steps that are not done.

        Raises:
            InterruptedNightError: the process was told to end.
            UnavailableError: the night's document cannot be written.
        """
        run = self.book.run
        run["attempts"] = int(run.get("attempts", 0)) + 1
        self.book.save()
        for name, step in STEPS.items():
            if "ended_at" not in self.book.step(name):
                self._do(name, step)
        run.setdefault("ended_at", written(self.world.now()))
        run["state"] = DONE
        self.book.save()
        log.info("night %s is done", self.book.name)

    def report_again(self) -> None:
        """Write the report once more; the night stays done."""
        self._do("report", STEPS["report"])
        self.book.run["state"] = DONE

    def _do(self, name: str, step: Step) -> None:
        facts = self.book.step(name)
        facts.setdefault("began_at", written(self.world.now()))
        self.book.run["state"] = name
        self.book.save()
        log.info("night %s: %s", self.book.name, name.replace("_", " "))
        problem = self._try(name, step, facts)
        if problem:
            facts["problem"] = hide(problem)
            log.error("night %s: %s: %s", self.book.name, name.replace("_", " "), problem)
        facts["ended_at"] = written(self.world.now())
        self.book.save()

    def _try(self, name: str, step: Step, facts: dict[str, Any]) -> str:
        """Do a step, again and again while something is away; '' or what went wrong."""
        until = (moment(facts["began_at"]) or self.world.now()) + PATIENCE
        if name == "wait":
            until = max(until, self.deadline)
        while True:
            tried = self.world.now()
            try:
                step(self, facts)
                return ""
            except (redis.RedisError, UnavailableError) as error:
                now = self.world.now()
                if now - tried >= PATIENCE:
                    until = max(until, now + PATIENCE)  # it worked for long, as settling does, before this
                if now >= until:
                    return str(error)
                log.warning("night %s: %s waits: %s", self.book.name, name, hide(str(error)))
                self.world.pause(_RETRY_S)
            except FarmError as error:
                return _told(error)
            except Exception as error:  # noqa: BLE001 - a fault of one step must not cost the night's other results
                log.error("%s", traceback_text(error))
                return f"unexpected error, which is a bug: {type(error).__name__}: {error}"


def _told(error: FarmError) -> str:
    problems = "; ".join(error.problems) if isinstance(error, UsageError) else ""
    return f"{error.message}: {problems}" if problems else error.message


#: In their order; `run.state` and `run.steps` use these names.
STEPS: dict[str, Step] = {
    "canaries_first": measure.canaries,
    "submit": measure.submit,
    "wait": measure.wait,
    "canaries_last": measure.canaries,
    "assess": verdict.assess,
    "confirm": verdict.confirm,
    "conclude": verdict.conclude,
    "report": verdict.report,
    "notify": verdict.notify,
}
