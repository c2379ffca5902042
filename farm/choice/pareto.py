# SPDX-License-Identifier: Apache-2.0
"""What no other way beats: the Pareto front of candidates that may stand side by side. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from farm.choice.model import AXES, Candidate

#: Throughput is left out: at one batch size it is the latency once more.
FRONT_AXES = ("latency", "accuracy", "memory", "energy")

#: An axis counts where at least this share of the candidates has it; the others are not placed.
_KNOWN = 0.5


@dataclass(frozen=True)
class Front:
    """`best` are not beaten by any. `beaten` maps a place in `candidates` to those that beat it.

    `axes` are what was compared, `unknown` counts for each other axis the candidates that have it. `unplaced` lack an
    axis that counts, so nothing is said of them.
    """

    candidates: tuple[Candidate, ...]
    best: tuple[Candidate, ...]
    beaten: Mapping[int, tuple[Candidate, ...]]
    axes: tuple[str, ...]
    unknown: Mapping[str, int] = field(default_factory=dict)
    unplaced: tuple[tuple[Candidate, str], ...] = ()


def front(candidates: Sequence[Candidate]) -> Front:
    """The front of candidates of one world, device class, model and batch size."""
    counts = {name: sum(c.known(name) for c in candidates) for name in FRONT_AXES}
    axes = tuple(name for name in FRONT_AXES if candidates and counts[name] >= max(1, _KNOWN * len(candidates)))
    lacking = [(c, [name for name in axes if not c.known(name)]) for c in candidates]
    placed = tuple(c for c, lacks in lacking if not lacks) if axes else ()
    beaten = {i: by for i, c in enumerate(placed) if (by := tuple(o for o in placed if dominates(o, c, axes)))}
    return Front(
        placed,
        tuple(c for i, c in enumerate(placed) if i not in beaten),
        beaten,
        axes,
        {name: counts[name] for name in FRONT_AXES if name not in axes},
        tuple((c, _why(c, lacks)) for c, lacks in lacking if lacks),
    )


def dominates(one: Candidate, other: Candidate, axes: Sequence[str]) -> bool:
    """Whether one is nowhere worse by its values, and somewhere better beyond both intervals."""
    pairs = [(one.readings[name], other.readings[name], AXES[name].better) for name in axes]
    no_worse = all(a.at_least_as_good(b, better) for a, b, better in pairs)
    return no_worse and any(a.beats(b, better) for a, b, better in pairs)


def _why(candidate: Candidate, lacks: Sequence[str]) -> str:
    told = {
        name: "flagged" if name in candidate.readings else candidate.absent.get(name, "not measured") for name in lacks
    }
    return "; ".join(f"{AXES[name].title}: {why}" for name, why in told.items())
