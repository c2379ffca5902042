# SPDX-License-Identifier: Apache-2.0
"""The sweeps that settle a change: one job measured in single processes, alternately where both sides can run. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from farm.compare.order import BASE, NEW, Turn, turns
from farm.contract.canonical import short_digest
from farm.contract.catalogue import WORKFLOWS
from farm.contract.job import BatchLadder, JobSpec, Protocol
from farm.contract.record import ACCURACY, Record
from farm.devices import Selector
from farm.history.model import Trigger
from farm.history.purpose import CONFIRMATION
from farm.history.sides import Setup, Sides
from farm.sweep import SweepSpec, WorkflowChoice
from farm.sweep.spec import Rebuilds

#: With the night and a digest behind it, a name stays within what `compare.order` cuts names to.
_STEM = 55


@dataclass(frozen=True)
class Member:
    """One trigger of a session: the record that stands for before, tonight's, and all runs of before by night.

    `predicted_s` are device seconds of a process of each side, both added.
    """

    trigger: Trigger
    base: Record
    now: Record
    nights: tuple[tuple[Record, ...], ...]
    predicted_s: float = 0.0

    @property
    def metric(self) -> str:
        """The metric of the series."""
        return self.trigger.key.partition(":")[2]


@dataclass(frozen=True)
class Session:
    """Triggers that one measurement settles: they are of one job, before and now."""

    members: tuple[Member, ...]
    sides: Sides
    base: SweepSpec | None
    new: SweepSpec

    @property
    def name(self) -> str:
        """For people: `resnet18/onnxruntime_cpu/int8 on box-cpu`."""
        now = self.members[0].now
        return f"{now.job.name} on {now.device.device_id if now.device else now.job.target.key}"

    @property
    def predicted_s(self) -> float:
        """Device seconds of one turn of each side, by what the runs took; 0 where that is not known."""
        points = {(member.now.point, member.now.batch_size): member.predicted_s for member in self.members}
        return sum(points.values()) * (1.0 if self.base is not None else 0.5)

    def turns(self, processes: int) -> list[Turn]:
        """What to measure, in order; more processes begin as fewer do."""
        if self.base is not None:
            return turns(self.base, self.new, processes)
        made = turns(self.new, self.new, processes)
        return [turn for turn in made if turn.side == NEW]


def group_key(member: Member) -> tuple[str, ...]:
    """Members with the same one share a session."""
    old, now = member.base, member.now
    return now.job.job_id, str(now.job.generation), old.job.job_id, str(old.job.generation)


def sizes_of(members: Sequence[Member]) -> tuple[int, ...]:
    """The batch sizes to measure: those asked for, or all where one engine is made for the whole ladder."""
    job = members[0].now.job
    if job.options.get("profile") == "ladder":
        return job.batches.sizes
    wanted = {member.now.batch_size for member in members}
    return tuple(size for size in job.batches.sizes if size in wanted)


def make_session(members: Sequence[Member], sides: Sides, *, rebuild: bool = False) -> Session:
    """The session of some members. With `rebuild`, each process gets an engine of its own, where sides may build."""
    rebuild = rebuild and sides.by_stack
    base = None if sides.base is None else _sweep(members, sides.base, rebuild=rebuild)
    return Session(tuple(members), sides, base, _sweep(members, sides.new, rebuild=rebuild))


def _sweep(members: Sequence[Member], setup: Setup, *, rebuild: bool) -> SweepSpec:
    now = members[0].now
    job = now.job
    keys = [member.trigger.key for member in members]
    accuracy = job.accuracy if any(member.now.point == ACCURACY for member in members) else None
    return SweepSpec(
        name=f"{job.sweep_name[:_STEM].rstrip('.-_')}.{members[0].trigger.night}.{short_digest(keys, 6)}",
        protocol=single(job.protocol),
        models=(job.model,),
        workflows=(WorkflowChoice(job.workflow, job.options),),
        precisions=(job.precision,),
        batches=BatchLadder(sizes_of(members), job.batches.until),
        devices=(Selector(device_id=now.device.device_id if now.device else job.target.device_id),),
        calibrations=(job.calibration,) if job.calibration else (),
        data=job.data,
        seed=job.seed,
        accuracy=accuracy,
        rebuilds=_rebuilds(job, rebuild),
        pins=setup.pins,
        stack=setup.stack,
        purpose=CONFIRMATION,
    )


def single(protocol: Protocol) -> Protocol:
    """The same measurement in one process: a session has as many turns as it needs processes."""
    return dataclasses.replace(
        protocol, processes=1, max_processes=None, processes_half_width=None, processes_max_s=None
    )


def _rebuilds(job: JobSpec, rebuild: bool) -> Rebuilds | None:
    return Rebuilds(1) if rebuild and WORKFLOWS[job.workflow].rebuilds else None


__all__ = ["BASE", "NEW", "Member", "Session", "group_key", "make_session", "single", "sizes_of"]
