# SPDX-License-Identifier: Apache-2.0
"""A study of requests in flight: from its axes to the ways in which a workflow is run. Pure."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from farm.contract.catalogue import WORKFLOWS
from farm.contract.concurrency import switches_of
from farm.contract.job import Protocol


@dataclass(frozen=True)
class Concurrency:
    """The axes of a study; an empty one is not varied. Without `streams` there is one for each context or session."""

    streams: tuple[int, ...] = ()
    contexts: tuple[int, ...] = ()
    sessions: tuple[int, ...] = ()
    threads: tuple[int, ...] = ()
    inter_threads: tuple[int, ...] = ()


@dataclass(frozen=True)
class Way:
    """One combination: the switches of a protocol that it sets. None leaves one as the sweep's protocol has it."""

    streams: int
    contexts: int | None = None
    sessions: int | None = None
    threads: int | None = None
    inter_threads: int | None = None

    def applied(self, protocol: Protocol) -> Protocol:
        """The switches of a job run in this way, under the name of the sweep's protocol."""
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        if given.get("inter_threads") == 1:
            given["inter_threads"] = None  # one is what leaving it out means
        return dataclasses.replace(protocol, scenario="streams", **given)


def ways(study: Concurrency, workflow: str) -> list[Way]:
    """Every combination of the axes that a workflow has, each once, in the order of the lists.

    An axis that it has not is not varied, so that one study can be run by several workflows; combinations that leave
    something idle are here, and are refused with the reason when they are matched with devices.
    """
    has = switches_of(WORKFLOWS[workflow]) if workflow in WORKFLOWS else ()
    contexts = study.contexts if "contexts" in has else ()
    sessions = study.sessions if "sessions" in has else ()
    inter = study.inter_threads if "inter_threads" in has else ()
    found = [
        Way(streams, context, session, intra, side)
        for intra, side, session, context in itertools.product(*map(_axis, (study.threads, inter, sessions, contexts)))
        for streams in _streams(study, context, session)
    ]
    return list(dict.fromkeys(found))


def _axis(values: Sequence[int]) -> Sequence[int | None]:
    return values or (None,)


def _streams(study: Concurrency, context: int | None, session: int | None) -> Sequence[int]:
    """Those listed; else one for each context or session, and for a workflow with neither, as many as others have."""
    if study.streams:
        return study.streams
    own = [count for count in (context, session) if count is not None]
    if own:
        return (max(own),)
    return tuple(dict.fromkeys((*study.contexts, *study.sessions))) or (1,)
