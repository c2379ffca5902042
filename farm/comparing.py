# SPDX-License-Identifier: Apache-2.0
"""What `farm compare` reads from the store: the records of each side, finished sweeps, what is left to measure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from farm.canary import is_canary, is_canary_sweep
from farm.compare.model import Comparison
from farm.compare.order import BASE, NEW, Turn, turns
from farm.contract.record import Record
from farm.errors import IntegrityError, UsageError
from farm.history.purpose import confirmations, is_confirmation
from farm.selecting import FORM, split, words_of
from farm.store import BadRecord, Store
from farm.sweep import SweepSpec
from scheduler.expand import jobs_at
from scheduler.records import recorded

LAST, PREVIOUS = "last", "previous"
_LISTED = "`farm results --columns sweep_id,started_at` lists what is recorded."

#: A run, and what its words are made of.
_COLUMNS = ("run_id", "batch_size", "model", "workflow", "precision", "device_id")


class _Named(NamedTuple):
    """A run or a sweep by its id; with `words`, those of its runs that have all of them."""

    name: str
    words: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Question:
    """Which records to compare. A side is a run id, a sweep, `last`, `previous`, or several with commas between.

    Words behind a sweep stand for some of its runs: `SWEEP:resnet18:int8` (`farm.selecting`).

    `where` narrows both sides, as in `farm results`. With `repeats`, a sweep stands for all repeats of it.
    """

    base: str
    new: str
    where: str | None = None
    repeats: bool = False


def records_of(question: Question, store: Store, find: Callable[[str], str]) -> tuple[list[Record], list[Record]]:
    """The records of both sides. `find` gives the id of a sweep's name, and raises UsageError where there is none.

    Raises:
        UsageError: a side names nothing, or nothing that `where` lets through, or the sides share runs.
    """
    sides = _resolved(question, store, find)
    store.index.refresh()
    base, new = (_runs(names, store, question.where) for names in sides)
    for name, found in ((question.base, base), (question.new, new)):
        if not found:
            hint = "Nothing is recorded of it."
            if question.where:
                hint = "The condition of --where lets none of them through."
            elif ":" in name:
                hint = f"{FORM}, in any order: a run needs all of the words that are typed."
            raise UsageError(f"{name!r} has no runs to compare", hint=hint)
    both = set(base) & set(new)
    if both:
        raise UsageError(
            f"{len(both)} runs are on both sides, such as {min(both)}: a run cannot be compared with itself",
            hint="Name two sweeps, or measure once more: `farm submit --again`.",
        )
    return [store.records.read(run) for run in base], [store.records.read(run) for run in new]


def require_cells(comparison: Comparison) -> Comparison:
    """The comparison, if it compares anything. Raises UsageError with every reason if not."""
    if not comparison.cells and not any(left.broke for left in comparison.left_out):
        problems = [f"{', '.join(filter(None, left.cell.values()))}: {left.reason}" for left in comparison.left_out]
        raise UsageError("nothing of the two sides can be compared", problems=problems[:20])
    return comparison


def asked_for(store: Store, records: Sequence[Record | BadRecord]) -> list[Record | BadRecord]:
    """The records of what people asked for: a report of canaries, or of confirmations, is one that names them."""
    own = confirmations(store)
    return [r for r in records if isinstance(r, BadRecord) or not (is_canary(r.job) or r.job.sweep_id in own)]


def finished(store: Store, document: Mapping[str, Any]) -> bool:
    """Whether every job of a stored sweep has its results."""
    spec = SweepSpec.from_document(document)
    jobs = jobs_at(spec, document.get("places", ()), document.get("narrowed", {}))
    return all(recorded(store.records, job, refusals=True) for job in jobs)


def turn_records(turns_: Sequence[Turn], store: Store) -> tuple[list[Record], list[Record]]:
    """What was measured of each side, the newest of each point."""
    store.index.refresh()
    sides = ([_Named(turn.spec.sweep_id) for turn in turns_ if turn.side == side] for side in (BASE, NEW))
    base, new = ([store.records.read(run) for run in _runs(side, store, None)] for side in sides)
    return base, new


def unmeasured(turns_: Sequence[Turn], store: Store) -> list[Turn]:
    """The turns that have no results, or not all."""
    return [
        turn for turn in turns_ if not (_known(store, turn) and finished(store, store.sweeps.read(turn.spec.sweep_id)))
    ]


def session_turns(
    store: Store, base: SweepSpec, new: SweepSpec, processes: int, *, seed: int, again: bool
) -> list[Turn]:
    """The turns of the newest session of these two sweeps that the store knows, or with `again` of the next one."""

    def known(session: int) -> bool:
        return any(_known(store, turn) for turn in turns(base, new, 1, seed=seed, session=session))

    unused = next(session for session in itertools.count() if not known(session))
    return turns(base, new, processes, seed=seed, session=unused if again else max(unused - 1, 0))


def _known(store: Store, turn: Turn) -> bool:
    return store.sweeps.root.is_dir() and store.sweeps.exists(turn.spec.sweep_id)


def _resolved(question: Question, store: Store, find: Callable[[str], str]) -> list[list[_Named]]:
    """What each side names."""
    words = [_words(question.base), _words(question.new)]
    if question.repeats and {LAST, PREVIOUS} & {word for side in words for word in side}:
        raise UsageError(
            "--repeats takes repeats together, `last` and `previous` tell them apart", hint="Use one of them."
        )
    found = [[_one(word, store, find) for word in side if word != PREVIOUS] for side in words]
    for side, other in ((0, 1), (1, 0)):
        if PREVIOUS in words[side]:
            found[side].append(_Named(_previous([each.name for each in found[other]], store)))
    if question.repeats:
        found = [[_Named(name, each.words) for each in side for name in _repeats(each.name, store)] for side in found]
    return [list(dict.fromkeys(side)) for side in found]


def _words(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise UsageError(f"{text!r} names no sweep and no run", hint="Name one, or `last` or `previous`.")
    return words


def _one(text: str, store: Store, find: Callable[[str], str]) -> _Named:
    word, words = split(text)
    if word == LAST:
        newest = next(_finished_sweeps(store), None)
        if newest is None:
            raise UsageError("no sweep is finished yet", hint=_LISTED)
        return _Named(str(newest["sweep_id"]), words)
    return _Named(word if _is_run(word, store) else find(word), words)


def _is_run(name: str, store: Store) -> bool:
    try:
        return store.records.exists(name)
    except UsageError:
        return False


def _previous(others: Sequence[str], store: Store) -> str:
    """The finished sweep before the other side's, of the same name."""
    sweeps = [name for name in others if not _is_run(name, store)]
    if len(sweeps) != 1:
        raise UsageError("`previous` is the sweep before the other side's, which must name one sweep", hint=_LISTED)
    other = store.sweeps.read(sweeps[0])
    for document in _finished_sweeps(store):
        earlier = document.get("submitted_at", 0.0) < other.get("submitted_at", 0.0)
        if document["name"] == other["name"] and earlier:
            return str(document["sweep_id"])
    raise UsageError(f"no finished sweep {other['name']!r} comes before {sweeps[0]}", hint=_LISTED)


def _finished_sweeps(store: Store) -> Iterator[Mapping[str, Any]]:
    """Documents of finished sweeps, the newest first. Canaries and confirmations are none that a person asked for."""
    documents = sorted(
        (doc for doc in store.sweeps.list() if not is_canary_sweep(doc) and not is_confirmation(doc)),
        key=lambda doc: (doc.get("submitted_at", 0.0), doc["sweep_id"]),
        reverse=True,
    )
    return (document for document in documents if _is_finished(store, document))


def _is_finished(store: Store, document: Mapping[str, Any]) -> bool:
    """As `finished`; a document that this farm cannot read is no candidate, and no reason to stop either."""
    try:
        return finished(store, document)
    except IntegrityError:
        return False


def _repeats(name: str, store: Store) -> list[str]:
    """The sweep and all its repeats; a run stays what it is."""
    if _is_run(name, store):
        return [name]
    first = _without_repeat(store.sweeps.read(name))
    return sorted(str(doc["sweep_id"]) for doc in store.sweeps.list() if _without_repeat(doc) == first)


def _without_repeat(document: Mapping[str, Any]) -> str:
    return SweepSpec.from_document(document).repeated(0).sweep_id


def _runs(side: Sequence[_Named], store: Store, where: str | None) -> list[str]:
    """The run ids of a side: of each point of a sweep the newest, and runs as they were named."""
    found: list[str] = []
    for name, words in side:
        if _is_run(name, store):
            rows = store.index.query(None, where, ["run_id"]).rows
            found += [name] if where is None or (name,) in rows else []
        else:
            rows = store.index.query(name, where, _COLUMNS, latest=True).rows
            found += [str(run) for run, *about in rows if words <= words_of(*about)]
    return list(dict.fromkeys(found))
