# SPDX-License-Identifier: Apache-2.0
"""A paper's document for one device class: every exhibit of the paper, what differs from it, and the records behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from farm.contract.job import JobSpec
from farm.contract.names import slug
from farm.errors import UnavailableError
from farm.report import coverage, results, text
from farm.report.document import Document, Section, Sentence
from farm.report.figures import Figure, Samples
from farm.report.papers import figures, tables
from farm.report.papers.differences import Difference, difference_table, differences
from farm.report.papers.published import Exhibit, Paper, paper
from farm.report.papers.view import NOT_ASKED, OTHER_INPUTS, View, views
from farm.report.provenance import simulated_words
from farm.report.render import ReportFiles, write_document
from farm.report.select import Problem, select
from farm.report.table import Table

Made = tuple[Table, Figure | None]

KINDS: dict[str, Callable[[View, Exhibit], Made]] = {
    "largest_batch": lambda view, of: (tables.largest_batch_table(view, of), None),
    "mismatch": lambda view, of: (tables.mismatch_table(view, of), None),
    "speed_up": lambda view, of: (tables.speed_up_table(view, of), None),
    "accuracy": lambda view, of: (tables.accuracy_table(view, of), None),
    "utilisation": lambda view, of: (tables.utilisation_table(view, of), None),
    "by_model": figures.by_model,
    "by_batch": figures.by_batch,
    "by_calibration": figures.by_calibration,
}
#: The kind that needs the raw samples, and may find that some can't be read.
SPREAD = "spread"


def write_paper(
    name: str,
    records: Iterable[object],
    out_dir: Path,
    *,
    samples: Samples | None = None,
    expected: Iterable[JobSpec] = (),
) -> list[ReportFiles]:
    """Write a paper's tables and figures, a document for each device class that has records of its cells.

    Of one class the document is in `out_dir`; of several each is in a directory below, named after its class.

    Raises:
        UsageError: there is no such paper.
        UnavailableError: no record belongs to it, or `out_dir` cannot be written.
    """
    made = compose_paper(paper(name), records, samples=samples, expected=expected)
    out_dir = Path(out_dir)
    if len(made) == 1:
        return [write_document(document, out_dir) for document in made.values()]
    return [write_document(document, out_dir / slug(device_class)) for device_class, document in made.items()]


def compose_paper(
    of: Paper, records: Iterable[object], *, samples: Samples | None = None, expected: Iterable[JobSpec] = ()
) -> dict[str, Document]:
    """The documents of a paper by device class, in no form yet.

    Raises:
        UnavailableError: no record belongs to the paper.
    """
    found = views(of, select(records, expected))
    if not found:
        ways = text.listed(f"{way.workflow} {way.precision}" for way in of.ways)
        raise UnavailableError(
            f"no record here belongs to {of.title!r}: none is of {text.listed(of.models)} with {ways}",
            hint=f"`farm submit examples/{of.key}.yaml` measures its tables and figures.",
        )
    return {view.device_class: compose(view, samples) for view in found}


def compose(view: View, samples: Samples | None = None) -> Document:
    """The document of one device class."""
    problems: list[Problem] = []
    sections = []
    for exhibit in view.paper.exhibits:
        table, figure = _made(view, exhibit, samples, problems)
        drawn = (figure,) if figure is not None else ()
        sections.append(Section(exhibit.key.replace("_", "-"), exhibit.label, "", (table,), (), drawn))
    selection = replace(view.standing, problems=(*view.selection.problems, *problems))
    facts = differences(view)
    if facts:
        sections.insert(0, Section("differing", "What differs from the paper", "", (difference_table(view, facts),)))
    found = (coverage.reason_table(selection), coverage.flag_table(selection), coverage.problem_table(selection))
    told = tuple(table for table in found if table is not None)
    if told:
        sections.append(Section("coverage", "What did not run, and what is doubtful", "", told))
    sections.append(Section("appendix", "Appendix", "", (results.appendix_table(selection),)))
    banner = simulated_words(view.selection)
    title = f"{view.paper.title}, on {view.device_class}"
    return Document(title, view.paper.citation, tuple(_summary(view, facts)), (), tuple(sections), selection, banner)


def _made(view: View, exhibit: Exhibit, samples: Samples | None, problems: list[Problem]) -> Made:
    if exhibit.kind == SPREAD:
        table, figure, unread = figures.distribution(view, exhibit, samples)
        problems += unread
        return table, figure
    return KINDS[exhibit.kind](view, exhibit)


def _summary(view: View, facts: list[Difference]) -> list[Sentence]:
    of = view.paper
    cells = [slot for model in of.models for way in of.ways for slot in view.slots(model, way)]
    ran = [slot.ok for slot in cells if slot.ok is not None]
    words: dict[str, int] = {}
    for slot in cells:
        if slot.ok is None:
            word = slot.word or text.plain(slot.point.record.outcome if slot.point else "")
            words[word] = words.get(word, 0) + 1
    rest = "".join(f"; {text.number(count, 0)} {_explained(word)}" for word, count in sorted(words.items()))
    grid = f"{text.plural(len(of.models), 'model')}, {text.plural(len(of.ways), 'workflow')}, {text.sizes(of.batches)}"
    found = [
        Sentence("ran", f"{text.number(len(ran), 0)} of the paper's {text.number(len(cells), 0)} cells ({grid}) have a"
                        f" record that is ok{rest}. A cell without one says why, and nothing else is put there."),
        *_differing(facts),
    ]  # fmt: skip
    doubtful = sum(1 for point in ran if point.doubts)
    if doubtful:
        said = f"{text.plural(doubtful, 'cell')} shown here {'is' if doubtful == 1 else 'are'} flagged and marked."
        found.append(Sentence("doubt", said, "flags"))
    said = (
        "Where several records fit a cell, it shows the newest that is ok; its note names it, and so does results.csv."
    )
    return [*found, Sentence("scope", said)]


#: What the words of empty cells mean; an outcome is told in the table of what did not run.
_WORDS = {
    NOT_ASKED: "no job asked for it",
    OTHER_INPUTS: "it ran with inputs of another shape only",
    "not run": "its batch ladder had ended",
    "no record": "asked for, and nothing is recorded",
}


def _explained(word: str) -> str:
    return f"{word} ({_WORDS[word]})" if word in _WORDS else word


def _differing(facts: list[Difference]) -> list[Sentence]:
    def briefly(fact: Difference) -> str:
        own = fact.here[0][0] if len(fact.here) == 1 else text.plural(len(fact.here), "value")
        return f"{fact.name} ({own}; there {fact.paper})"

    other = [fact for fact in facts if fact.same is False]
    if not other:
        return []
    said = text.listed(briefly(fact) for fact in other)
    return [Sentence("doubt", f"Differs from the paper in: {said}.", "paper-differences")]
