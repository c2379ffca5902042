# SPDX-License-Identifier: Apache-2.0
"""Requests in flight in a sweep: the axes of a study (the key `concurrency`), and the switches of a protocol."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from farm.contract.concurrency import disagreement
from farm.contract.job import Protocol
from farm.sweep.fields import Lanes, OneOrMore, T, Threads
from farm.sweep.parts import Part
from farm.sweep.problems import Problem, custom, several

#: Values of one axis of a study. Five axes of so many are a second's work to spell out before they are refused.
Axis = Annotated[OneOrMore[T], Field(max_length=16)]


class ThreadsEntry(Part):
    """Threads within an operator, and threads that run operators side by side."""

    intra: Axis[Threads] | None = None
    inter: Axis[Threads] | None = None


class ConcurrencyEntry(Part):
    """A study of requests in flight: each combination is a job, as far as a workflow has the switch."""

    streams: Axis[Lanes] | None = None
    contexts: Axis[Lanes] | None = None
    sessions: Axis[Lanes] | None = None
    threads: ThreadsEntry | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not any(axis for _, axis in self.axes()):
            raise custom("must list streams, contexts, sessions or threads")
        twice = [(loc, axis) for loc, axis in self.axes() if len(set(axis)) < len(axis)]
        if twice:
            raise several([Problem(loc, "the same number is there twice", axis) for loc, axis in twice])
        return self

    def axes(self) -> list[tuple[tuple[str, ...], list[int]]]:
        """Each axis with its place; an axis that is left out is empty."""
        threads = self.threads or ThreadsEntry()
        found: list[tuple[tuple[str, ...], list[int] | None]] = [
            (("streams",), self.streams),
            (("contexts",), self.contexts),
            (("sessions",), self.sessions),
            (("threads", "intra"), threads.intra),
            (("threads", "inter"), threads.inter),
        ]
        return [(loc, axis or []) for loc, axis in found]


#: The switches of a protocol that say what is in flight on what.
LANES = ("scenario", "streams", "contexts", "sessions")


def lanes_problems(protocol: Protocol) -> list[Problem]:
    """Contexts and sessions of a protocol where nothing else is in flight, or more of one than the others can use."""
    named = [key for key in ("contexts", "sessions") if getattr(protocol, key) is not None]
    if named and protocol.scenario != "streams":
        return [Problem((key,), f"{key} need `scenario: streams`", getattr(protocol, key)) for key in named]
    idle = disagreement(protocol) if named else None
    return [] if idle is None else [Problem((named[0],), " ".join(idle), getattr(protocol, named[0]))]
