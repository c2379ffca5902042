# SPDX-License-Identifier: Apache-2.0
"""The section of a report on pipelines: what each stage takes, what overlapping them gains, latency against load."""

from __future__ import annotations

from farm.explain.pipeline import pipeline_of
from farm.report.document import Section, Sentence
from farm.report.pipeline_figures import load_figure, shares_figure
from farm.report.pipeline_tables import (
    Found,
    load_table,
    passes_table,
    pipeline_name,
    stages_table,
    workers_table,
)
from farm.report.select import Selection

#: Beyond so many runs the tables say it more shortly.
MOST_SENTENCES = 12


def pipeline_section(selection: Selection) -> Section | None:
    """All studies of the selection that ended well; None where there is none."""
    found: list[Found] = [
        (point, result) for point in selection.pipelines if (result := pipeline_of(point.record)) is not None
    ]
    if not found:
        return None
    made = (passes_table(found, selection), stages_table(found, selection), load_table(found, selection))
    folded = workers_table(found, selection)
    named = [(pipeline_name(point, selection), result) for point, result in found]
    figures = (shares_figure(named), load_figure(named))
    return Section(
        "pipeline",
        "The whole pipeline",
        "From a JPEG file to the five best classes: decode, preprocess, put a batch together, copy it in, infer, copy"
        " the scores out, take the best. A run of its own; docs/pipeline.md says how it is made.",
        tuple(table for table in made if table is not None),
        () if folded is None else (folded,),
        tuple(figure for figure in figures if figure is not None),
        tuple(
            Sentence("fastest", f"{name}: {result.overlapped.bottleneck.said}", "pipeline-passes")
            for name, result in named[:MOST_SENTENCES]
            if result.overlapped is not None
        ),
    )
