# SPDX-License-Identifier: Apache-2.0
"""What a report is before it takes a form: sentences, figures and sections of tables. Pure; draws nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from farm.report.figures import Figure
from farm.report.select import Selection
from farm.report.table import Table


@dataclass(frozen=True)
class Sentence:
    """A sentence, what it is about (`ran`, `fastest`, `not-ok`, `doubt`, `scope`) and the table that says more.

    Sentences of what changed have the kinds `slower`, `broke`, `missing`, `better` and `settled`.
    """

    kind: str
    text: str
    target: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a report under one heading, in this order: intro, sentences, figures, tables, then folded tables.

    `key` is its id on the page, unique in the document. `folded` tables are closed until they are asked for.
    """

    key: str
    title: str
    intro: str = ""
    tables: tuple[Table, ...] = ()
    folded: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    sentences: tuple[Sentence, ...] = ()


#: Above every page of what nobody measured.
SIMULATED = "Simulated: every number here was made up to show the farm's pages. Nothing was measured."


@dataclass(frozen=True)
class Document:
    """A whole report. `selection` is what results.csv and results.parquet hold; without one neither is written.

    `banner` is said above everything else; `links` are other pages, each with its words and its address from here.
    """

    title: str
    subtitle: str = ""
    summary: tuple[Sentence, ...] = ()
    figures: tuple[Figure, ...] = ()
    sections: tuple[Section, ...] = ()
    selection: Selection | None = field(default=None, repr=False)
    banner: str = ""
    links: tuple[tuple[str, str], ...] = ()

    @property
    def all_figures(self) -> tuple[Figure, ...]:
        """Every figure, those of the sections last. Their keys name the PNG files."""
        return (*self.figures, *(figure for section in self.sections for figure in section.figures))
