# SPDX-License-Identifier: Apache-2.0
"""One pass over the farm: recall what should not have gone first, then fill every ready device's window."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from farm.broker.jobs import Head, JobStore, JobView
from farm.broker.register import DeviceEntry, Register
from farm.canary import is_canary
from farm.contract.names import device_queue
from scheduler.canary_job import PRIORITY as CANARY_PRIORITY
from scheduler.choose import Slot, choose, outranked, stealable
from scheduler.match import working

log = logging.getLogger("inferfarm.scheduler")

#: Called with a job's id, a Celery queue and the job's name for people.
Send = Callable[[str, str, str], None]

#: How often another head is tried when one was taken away under our hands.
_TRIES = 20


@dataclass(frozen=True)
class PassReport:
    """What one pass did: (job, device) pairs sent, and jobs put back into their lines."""

    sent: tuple[tuple[str, str], ...] = ()
    recalled: tuple[str, ...] = ()


def one_pass(
    jobs: JobStore, register: Register, send: Send, window: int, windows: Mapping[str, Sequence[JobView]] | None = None
) -> PassReport:
    """Keep up to `window` jobs with every device that is online and ready.

    What is dispatched but unclaimed steps back for a waiting job of higher priority, and moves from a busy device to an
    idle one of its class. A job is dispatched before its message is sent: a lost message is sent again, a job that was
    sent but not dispatched would be refused. `windows`: those of devices that were just read; what has moved since is
    not moved again, since every move compares first.

    Raises:
        redis.RedisError: Redis went away; what was done stays done, and the next pass goes on from there.
    """
    slots = read_slots(jobs, register.devices(), windows)
    heads = jobs.heads() if slots else []
    recalled = recall_all(jobs, outranked(slots, heads))
    if recalled:
        heads, slots = jobs.heads(), _without(slots, recalled)
    stolen = recall_all(jobs, stealable(slots, heads))
    if stolen:
        heads, slots = jobs.heads(), _without(slots, stolen)
    sent = fill(jobs, slots, Board(heads), send, window) if heads else []
    return PassReport(tuple(sent), (*recalled, *stolen))


def standing(entry: DeviceEntry) -> tuple[object, ...]:
    """All that decides whether a device takes jobs, but for time: what a pass in a hurry must find unchanged."""
    return entry.announcement, entry.state, entry.canary, entry.back, entry.online


def quick_pass(
    jobs: JobStore, entries: Sequence[DeviceEntry], fit: Mapping[str, tuple[object, ...]], send: Send, window: int
) -> PassReport:
    """Give idle devices work at once; everything else waits for the pass after it, which is due now as well.

    `fit`: how devices stood when the last whole pass had been through with them. One that stands otherwise now, or on
    which the last job failed, or whose canary is due or at work, is left to that pass: it may have something to say.

    Raises:
        redis.RedisError: as `one_pass`.
    """
    ready = [entry for entry in entries if fit.get(entry.device_id) == standing(entry) and not entry.canary.busy]
    devices = {entry.device_id: entry.announcement.device.device_class for entry in ready if working(entry)}
    idle, heads = jobs.idle_and_heads(sorted(devices))
    slots = [Slot(device_id, devices[device_id]) for device_id in idle]
    return PassReport(tuple(fill(jobs, slots, Board(heads), send, window))) if slots and heads else PassReport()


def read_slots(
    jobs: JobStore, entries: Sequence[DeviceEntry], known: Mapping[str, Sequence[JobView]] | None = None
) -> list[Slot]:
    """The devices that take jobs now, with their windows, by id."""
    devices = sorted((entry.announcement.device for entry in entries if working(entry)), key=lambda d: d.device_id)
    settling = {entry.device_id for entry in entries if entry.back and entry.canary.busy}
    windows = dict(known or {})
    windows |= jobs.windows([d.device_id for d in devices if d.device_id not in windows])
    return [Slot(d.device_id, d.device_class, tuple(windows[d.device_id]), d.device_id in settling) for d in devices]


def recall_all(jobs: JobStore, job_ids: Iterable[str]) -> list[str]:
    """Put dispatched jobs back into their lines; return those that nobody had claimed in the meantime."""
    done = [job_id for job_id in job_ids if jobs.recall(job_id)]
    for job_id in done:
        log.info("recalled job=%s", job_id)
    return done


def _without(slots: Sequence[Slot], recalled: Sequence[str]) -> list[Slot]:
    gone = set(recalled)
    return [replace(slot, window=tuple(v for v in slot.window if v.job_id not in gone)) for slot in slots]


class Board:
    """The first waiting job of every line, kept up to date by what a dispatch answers.

    So a pass costs one look at all lines and one round trip for each job that it sends, however many jobs wait.
    """

    def __init__(self, heads: Sequence[Head]) -> None:
        self._lines: dict[str, dict[str, Head]] = {}
        self._served: dict[str, float] = {}
        for head in heads:
            self._lines.setdefault(head.target_key, {})[head.sweep_id] = head
            self._served[head.sweep_id] = head.served_s

    def of(self, slot: Slot) -> list[Head]:
        """The heads that feed a device, with what their sweeps have been served by now."""
        return [
            replace(head, served_s=self._served[head.sweep_id])
            for key in slot.keys
            for head in self._lines.get(key, {}).values()
        ]

    def after(self, head: Head, served_s: float, behind: Head | None) -> None:
        """`head` is gone from its line; `behind` is the first one now."""
        self._served[head.sweep_id] = served_s
        if behind is None:
            del self._lines[head.target_key][head.sweep_id]
        else:
            self._lines[head.target_key][head.sweep_id] = behind


def fill(jobs: JobStore, slots: Sequence[Slot], board: Board, send: Send, window: int) -> list[tuple[str, str]]:
    """First a job for each idle device, then a second for each, and so on: none waits behind another's window.

    Nothing is sent behind a canary: what it says decides what the device may do next.
    """
    sent: list[tuple[str, str]] = []
    held = {
        slot.device_id: window if any(is_canary(view.spec) for view in slot.window) else len(slot.window)
        for slot in slots
    }
    hungry = [slot for slot in slots if held[slot.device_id] < window and board.of(slot)]
    for depth in range(window):
        for slot in hungry:
            if held[slot.device_id] > depth:
                continue
            head = _send_best(jobs, slot, board, send)
            if head is not None:
                # No sweep of people's has a canary's priority.
                held[slot.device_id] += window if head.priority >= CANARY_PRIORITY else 1
                sent.append((head.job_id, slot.device_id))
    return sent


def _send_best(jobs: JobStore, slot: Slot, board: Board, send: Send) -> Head | None:
    """Dispatch the best waiting job and send its message; the board learns what that changed."""
    least = CANARY_PRIORITY if slot.canary_only else 0
    for _ in range(_TRIES):
        heads = board.of(slot)
        submitted = {head.sweep_id: head.submitted_s for head in heads}
        head = choose(heads, slot.device_id, slot.device_class, submitted, least=least)
        if head is None:
            return None
        made = jobs.dispatch_head(head, slot.device_id)
        board.after(head, made.served_s, made.behind)
        if made.done:
            if not made.sent:
                send(head.job_id, device_queue(slot.device_id), made.name)
            log.info("sent job=%s name=%s device=%s", head.job_id, made.name, slot.device_id)
            return head
    return None
