# SPDX-License-Identifier: Apache-2.0
"""Which way to take under stated limits, by how much it fits, and when the records cannot tell. Pure."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Sequence

from farm.choice import words
from farm.choice.candidates import WORLD, candidates_of, worlds_of
from farm.choice.model import AXES, Candidate, Fit, Limits, Margin, Reading, Recommendation, Rival, Status
from farm.contract.record import Record
from farm.errors import UsageError

_MOST_UNSETTLED = 10

#: Of several worlds that differ in these, what most people mean.
_USUAL = {"scenario": "single", "boundary": "compute", "inputs": "rotated"}


def recommend(records: Iterable[object], limits: Limits) -> Recommendation:
    """The best way within the limits.

    Raises:
        UsageError: nothing is recorded of that model on that device, a limit is none, or the records are of several
            things that do not stand side by side, of which one must be named.
    """
    _check(limits)
    known = [record for record in records if isinstance(record, Record)]
    candidates = _narrowed(candidates_of(known, limits.model, limits.device, dataset=limits.dataset), limits, known)
    fits = {id(c): [_margin(c, axis, bound) for axis, bound in limits.bounds.items()] for c in candidates}
    within = [c for c in candidates if _all(fits[id(c)], Fit.WITHIN) and c.known(limits.goal)]
    if not within:
        return _none(limits, candidates, fits)
    return _chosen(limits, candidates, within, fits)


def _check(limits: Limits) -> None:
    for axis, bound in limits.bounds.items():
        if not math.isfinite(bound) or bound <= 0 or (axis == "accuracy" and bound > 1):
            raise UsageError(f"{AXES[axis].shown(bound):g} {AXES[axis].unit} is no limit of {AXES[axis].title}")
    if limits.goal not in AXES:
        near = difflib.get_close_matches(limits.goal, AXES, n=1)
        raise UsageError(f"nothing is best at {limits.goal!r}", hint=f"Choose of {', '.join(near or AXES)}.")


def _narrowed(found: Sequence[Candidate], limits: Limits, records: Sequence[Record]) -> list[Candidate]:
    """The candidates of the one world that is asked for."""
    if not found:
        raise UsageError(
            f"nothing is recorded of {limits.model} on {limits.device}", hint=_known_words(records, limits)
        )
    kept = [
        c
        for c in found
        if limits.batch in (None, c.batch)
        and limits.precision in (None, c.precision)
        and (limits.weights is None or c.world["weights"] == limits.weights)
    ]
    if not kept:
        raise UsageError(
            f"nothing of {limits.model} on {limits.device} was measured at that batch, precision and weights",
            hint=f"Batches: {_listed({c.batch for c in found})}; precisions: {_listed({c.precision for c in found})}; "
            f"weights: {_listed({c.world['weights'] for c in found})}.",
        )
    return _one_world(kept, limits)


def _one_world(kept: Sequence[Candidate], limits: Limits) -> list[Candidate]:
    """Of several worlds the one in which every limit was measured of any candidate, if that is one alone."""
    worlds = list(worlds_of(kept).values())
    able = [of for of in worlds if all(any(axis in c.readings for c in of) for axis in limits.bounds)]
    plain = able or worlds
    for name, value in _USUAL.items():
        plain = [of for of in plain if of[0].world[name] == value] or plain
    if len(plain) > 1:
        told = [", ".join(f"{n} {of[0].world[n] or 'none'}" for n in WORLD if _differs(plain, n)) for of in plain]
        raise UsageError(
            f"the records of {limits.model} on {limits.device} are of {len(plain)} things that do not compare",
            hint="Name one with --weights, or name the sweeps to look at.",
            problems=[f"{len(of)} ways with {words_of}" for of, words_of in zip(plain, told, strict=True)],
        )
    return plain[0]


def _chosen(
    limits: Limits, candidates: Sequence[Candidate], within: Sequence[Candidate], fits: dict[int, list[Margin]]
) -> Recommendation:
    goal = AXES[limits.goal]
    ranked = sorted(within, key=lambda c: _worth(c, limits.goal))
    best = ranked[0]
    tied = [c for c in ranked[1:] if not best.readings[goal.name].beats(c.readings[goal.name], goal.better)]
    could = [c for c in candidates if c not in within and _could_be_better(c, best, limits.goal, fits[id(c)])]
    unsettled = [_rival(c, best, goal.name, f"as good within the intervals in {goal.title}") for c in tied]
    unsettled += [_rival(c, best, goal.name, _doubt(fits[id(c)], c, goal.name)) for c in could]
    after = _rival(ranked[1], best, goal.name, "fits, too") if len(ranked) > 1 else None
    status = Status.UNDECIDED if unsettled else Status.DECIDED
    made = Recommendation(
        limits,
        status,
        "",
        best,
        tuple(fits[id(best)]),
        after,
        tuple(unsettled[:_MOST_UNSETTLED]),
        _excluded(candidates, fits),
        looked_at=len(candidates),
        notes=_notes(best, after),
    )
    return words.with_sentence(made, len(unsettled))


def _none(limits: Limits, candidates: Sequence[Candidate], fits: dict[int, list[Margin]]) -> Recommendation:
    """Nothing is known to fit: undecided if something may, and the nearest miss if nothing can."""
    may = [c for c in candidates if not any(m.fit is Fit.OUTSIDE for m in fits[id(c)])]
    missed = [c for c in candidates if all(m.margin is not None for m in fits[id(c)])]
    nearest = max(missed, key=lambda c: min((m.margin or 0.0 for m in fits[id(c)]), default=0.0), default=None)
    made = Recommendation(
        limits,
        Status.UNDECIDED if may else Status.NONE,
        "",
        unsettled=tuple(Rival(c, _doubt(fits[id(c)], c, limits.goal)) for c in may[:_MOST_UNSETTLED]),
        excluded=_excluded(candidates, fits),
        nearest=nearest,
        nearest_margins=tuple(fits[id(nearest)]) if nearest else (),
        looked_at=len(candidates),
    )
    return words.with_sentence(made, len(may))


def _margin(candidate: Candidate, axis: str, bound: float) -> Margin:
    """How a candidate stands to one limit, by its whole interval."""
    found = candidate.readings.get(axis)
    if found is None:
        return Margin(axis, bound, Fit.UNKNOWN, reason=candidate.absent.get(axis, "not measured"))
    lower = AXES[axis].better == "lower"
    sign = 1.0 if lower else -1.0
    spare = [sign * (bound - value) / bound for value in (found.value, found.low, found.high)]
    worst, best = min(spare[1:]), max(spare[1:])
    fit = Fit.WITHIN if worst >= 0 and not found.doubtful else Fit.OUTSIDE if best < 0 else Fit.OPEN
    return Margin(axis, bound, fit, found, spare[0], worst, best)


def _could_be_better(candidate: Candidate, best: Candidate, goal: str, margins: Sequence[Margin]) -> bool:
    """Whether it may fit, and may be better at the goal than what is known to fit."""
    if any(margin.fit is Fit.OUTSIDE for margin in margins):
        return False
    found = candidate.readings.get(goal)
    return found is None or not best.readings[goal].beats(found, AXES[goal].better)


def _doubt(margins: Sequence[Margin], candidate: Candidate, goal: str) -> str:
    told = [f"{AXES[m.axis].title} unknown: {m.reason}" for m in margins if m.fit is Fit.UNKNOWN]
    for m in margins:
        if m.fit is Fit.OPEN and m.reading is not None:
            why = "was measured in flagged runs" if m.reading.doubtful else "has an interval that holds the limit"
            told.append(f"its {AXES[m.axis].title} {why}")
    if goal not in candidate.readings:
        told.append(f"{AXES[goal].title} unknown: {candidate.absent.get(goal, 'not measured')}")
    elif candidate.readings[goal].doubtful:
        told.append(f"its {AXES[goal].title} was measured in flagged runs")
    return "; ".join(dict.fromkeys(told)) or "fits, as far as is known"


def _rival(candidate: Candidate, best: Candidate, goal: str, reason: str) -> Rival:
    """How much worse at the goal: 0.1 is 10 % more time, or 10 % less throughput."""
    found, base = candidate.readings.get(goal), best.readings[goal]
    if found is None:
        return Rival(candidate, reason)
    return Rival(candidate, reason, *_worse(base, found, AXES[goal].better))


def _worse(base: Reading, found: Reading, better: str) -> tuple[float, float, float]:
    if better == "lower":
        return found.value / base.value - 1, found.low / base.high - 1, found.high / base.low - 1
    return 1 - found.value / base.value, 1 - found.high / base.low, 1 - found.low / base.high


def _worth(candidate: Candidate, goal: str) -> tuple[float, int, str]:
    value = candidate.readings[goal].value
    return (value if AXES[goal].better == "lower" else -value), candidate.batch, candidate.way


def _excluded(candidates: Sequence[Candidate], fits: dict[int, list[Margin]]) -> dict[str, int]:
    counts = Counter(m.axis for c in candidates for m in fits[id(c)] if m.fit is Fit.OUTSIDE)
    return {axis: counts[axis] for axis in AXES if counts[axis]}


def _all(margins: Sequence[Margin], fit: Fit) -> bool:
    return all(margin.fit is fit for margin in margins)


def _notes(best: Candidate, after: Rival | None) -> tuple[str, ...]:
    told = [*best.notes, "it holds for " + ", ".join(f"{n} {best.world[n]}" for n in WORLD if best.world[n])]
    if after is not None and not set(best.devices) & set(after.candidate.devices):
        told.append(f"it and the runner-up were measured on different devices of the class {best.device_class}")
    return tuple(told)


def _differs(worlds: Sequence[Sequence[Candidate]], name: str) -> bool:
    return len({of[0].world[name] for of in worlds}) > 1


def _listed(values: Iterable[object]) -> str:
    ordered = sorted(values, key=lambda value: (0, value, "") if isinstance(value, int) else (1, 0, str(value)))
    return ", ".join(map(str, ordered))


def _known_words(records: Sequence[Record], limits: Limits) -> str:
    models = {record.job.model.label for record in records}
    places = {place for r in records if r.device for place in (r.device.device_class, r.device.device_id)}
    if limits.model not in models:
        near = difflib.get_close_matches(limits.model, models, n=1)
        return f"Did you mean {near[0]}?" if near else f"Models: {', '.join(sorted(models)) or 'none'}."
    return f"Devices: {', '.join(sorted(places)) or 'none'}."
