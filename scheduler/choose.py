# SPDX-License-Identifier: Apache-2.0
"""What runs next on a device, and what must step back. Pure, and independent of the order of its inputs.

Source: start-time fair queueing (Goyal, Vin, Cheng, 1996): the sweep that has been handed the fewest predicted
device-seconds goes first, and a sweep that joins starts at the least of those that wait (`JobStore.submit`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from farm.broker.jobs import Head, JobState, JobView


@dataclass(frozen=True)
class Slot:
    """A device that takes jobs, and what it was given and has not finished."""

    device_id: str
    device_class: str
    window: tuple[JobView, ...] = ()
    #: It comes from a maintenance, and its canary is to say how it is before it does anything else.
    canary_only: bool = False

    @property
    def keys(self) -> tuple[str, str]:
        """The waiting lines that feed this device."""
        return f"dev:{self.device_id}", f"cls:{self.device_class}"

    @property
    def dispatched(self) -> list[JobView]:
        """What nobody has claimed yet, in the order in which it was sent."""
        waiting = [view for view in self.window if view.state is JobState.DISPATCHED]
        return sorted(waiting, key=lambda view: (view.times.get("dispatched", 0.0), view.job_id))


def choose(
    heads: Sequence[Head],
    device_id: str,
    device_class: str,
    submitted: Mapping[str, float] | None = None,
    *,
    least: int = 0,
) -> Head | None:
    """The waiting job to run next on a device, or None; `least`: the lowest priority that it takes.

    Highest priority first; then the sweep that was served least; then the sweep submitted first (`submitted`: Unix
    seconds by sweep); then the sweep's own order.
    """
    keys = Slot(device_id, device_class).keys
    known = submitted or {}
    return min(
        (head for head in heads if head.target_key in keys and head.priority >= least),
        key=lambda h: (-h.priority, h.served_s, known.get(h.sweep_id, 0.0), h.sweep_id, h.order, h.target_key),
        default=None,
    )


def by_target(heads: Iterable[Head]) -> dict[str, list[Head]]:
    """The heads of each target: a device looks at its own two, however many there are."""
    found: dict[str, list[Head]] = {}
    for head in heads:
        found.setdefault(head.target_key, []).append(head)
    return found


def for_slot(lines: Mapping[str, Sequence[Head]], slot: Slot) -> list[Head]:
    """The heads that feed a device."""
    return [head for key in slot.keys for head in lines.get(key, ())]


def outranked(slots: Sequence[Slot], heads: Sequence[Head]) -> list[str]:
    """Dispatched jobs that nobody has claimed and that a waiting job of higher priority should go before."""
    found = []
    lines = by_target(heads)
    for slot in slots:
        best = choose(for_slot(lines, slot), slot.device_id, slot.device_class) if slot.dispatched else None
        if best is not None:
            found += [view.job_id for view in slot.dispatched if view.priority < best.priority]
    return sorted(found)


def stealable(slots: Sequence[Slot], heads: Sequence[Head]) -> list[str]:
    """Jobs sent ahead to a busy device that an idle one of the same class could start now, one for each idle device."""
    taken: list[str] = []
    lines = by_target(heads)
    spares: dict[str, list[JobView]] = {}
    for slot in slots:
        for view in _spare(slot):
            spares.setdefault(view.target_key, []).append(view)
    for idle in sorted(slots, key=lambda slot: slot.device_id):
        if idle.window or idle.canary_only or for_slot(lines, idle):
            continue
        spare = [view for view in spares.get(f"cls:{idle.device_class}", ()) if view.job_id not in taken]
        if spare:
            taken.append(min(spare, key=lambda view: (-view.priority, view.order, view.job_id)).job_id)
    return taken


def _spare(slot: Slot) -> list[JobView]:
    """What waits on a device behind something else: never the one that it is about to start."""
    behind_running = len(slot.window) > len(slot.dispatched)
    return slot.dispatched if behind_running else slot.dispatched[1:]
