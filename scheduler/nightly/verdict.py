# SPDX-License-Identifier: Apache-2.0
"""The steps of a night that say what it found: judgement, settling, report, and telling people."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from farm.contract.codec import from_json, to_json
from farm.history.document import Missed
from farm.history.model import Confirmation
from scheduler.nightly import news
from scheduler.nightly.world import Settled

if TYPE_CHECKING:
    from scheduler.nightly.night import NightRun

#: Measuring to settle something may take so much longer by the wall clock than its device time: it waits its turn.
_WALL_PER_DEVICE_S = 2.0


def assess(night: NightRun, facts: dict[str, Any]) -> None:
    """Judge the night by those before it."""
    facts["wanted"] = night.world.wanted(_found(night))


def confirm(night: NightRun, facts: dict[str, Any]) -> None:
    """Measure what the judgement asks for, within the budget of device time."""
    if "problem" in night.book.step("assess"):
        return
    budget_s = night.settings.confirm_device_s
    settled = Settled()
    if facts_wanted(night) and budget_s > 0:
        until = night.world.now() + timedelta(seconds=budget_s * _WALL_PER_DEVICE_S)
        settled = night.world.confirm(_found(night), budget_s, until)
    facts["settled"] = to_json(settled)
    facts["spent_s"] = settled.spent_s


def conclude(night: NightRun, facts: dict[str, Any]) -> None:
    """Write what is said of the night into its document."""
    if "problem" in night.book.step("assess"):
        return
    told = night.book.step("confirm").get("settled")
    night.world.conclude(_found(night), read_settled(told))


def report(night: NightRun, facts: dict[str, Any]) -> None:
    """Write the report and the index of nights."""
    night.book.run["report"] = night.world.report(night.book.name)


def notify(night: NightRun, facts: dict[str, Any]) -> None:
    """Tell people, if anything has another state than when they were last told."""
    book = night.book
    judged = book.judged()
    now = news.subjects(judged, night.world.names(judged.events))
    before = night.before()
    changes = news.changes(before, now)
    facts["changes"] = len(changes)
    if not changes:
        book.run["told"] = now_states(now)
        return
    message = news.message(judged, now, changes, night.world.link(str(book.run.get("report", ""))))
    deliveries = night.world.tell(message)
    book.run["deliveries"] = deliveries
    # Where nobody could be reached, the next night says it again.
    if not deliveries or any(delivery["ok"] for delivery in deliveries):
        book.run["told"] = now_states(now)
    else:
        facts["problem"] = "nobody could be told"


def now_states(now: dict[str, news.Subject]) -> dict[str, str]:
    """What to compare the next night with."""
    return {key: subject.state for key, subject in now.items()}


def facts_wanted(night: NightRun) -> int:
    """How many measurements the judgement asked for."""
    return int(night.book.step("assess").get("wanted", 0))


def read_settled(told: dict[str, Any] | None) -> Settled:
    """What the step before found, from the night's document."""
    if not told:
        return Settled()
    confirmations = tuple(from_json(Confirmation, row) for row in told.get("confirmations", []))
    missed = tuple(from_json(Missed, row) for row in told.get("missed", []))
    return Settled(confirmations, missed, float(told.get("spent_s", 0.0)))


def _found(night: NightRun) -> Any:
    if night.found is None:
        night.found = night.world.assess(night.book.name)
    return night.found
