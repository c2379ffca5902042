# SPDX-License-Identifier: Apache-2.0
"""From records to a report: choose, count, tabulate, draw. What is in a report, and in which order, is decided here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from farm.contract.job import JobSpec
from farm.contract.names import slug
from farm.contract.record import Record
from farm.report import across, coverage, grid, narrative, provenance, results, tables, text
from farm.report.best import best_table
from farm.report.choice import choice_section
from farm.report.concurrency import concurrency_section
from farm.report.document import Document, Section
from farm.report.figures import across_figure, make_figures
from farm.report.findings import findings_section
from farm.report.pipeline import pipeline_section
from farm.report.profiles import Pictures, no_picture, profiles_section
from farm.report.render import ReportFiles, write_document
from farm.report.select import Selection, select
from farm.report.sequences import sequence_figure
from farm.report.series import device_class as class_of
from farm.report.software import software_table

#: Findings and fronts take some 0.5 ms a point: beyond this many they would take most of a report's time.
MOST_EXAMINED = 20_000


def write_report(
    records: Iterable[object],
    out_dir: Path,
    *,
    title: str,
    generated_at: str | None = None,
    samples: Callable[[Record], list[int] | None] | None = None,
    expected: Iterable[JobSpec] = (),
    pictures: Pictures = no_picture,
) -> ReportFiles:
    """Write the page, Markdown, CSV, Parquet and figures into `out_dir`, made if it is not there.

    `records` may hold unreadable ones (with `path` and `problem`) and foreign objects: they are listed. `samples`
    gives a record's raw latencies in ns, or None, `pictures` the picture of its timeline. `expected` are jobs that
    should have records. The same input gives the same bytes; `generated_at` is printed as it is, and nothing asks the
    clock.

    Raises:
        UnavailableError: `out_dir` cannot be written.
    """
    document = compose(
        records, title=title, generated_at=generated_at, samples=samples, expected=expected, pictures=pictures
    )
    return write_document(document, Path(out_dir))


def compose(
    records: Iterable[object],
    *,
    title: str,
    generated_at: str | None = None,
    samples: Callable[[Record], list[int] | None] | None = None,
    expected: Iterable[JobSpec] = (),
    pictures: Pictures = no_picture,
) -> Document:
    """Everything that a report says, in order, in no form yet."""
    selection = select(records, expected)
    figures = make_figures(selection.timed, samples) if selection.ok else []
    lengths = sequence_figure(selection.timed)
    figures += [lengths] if lengths is not None else []
    problems = {p for figure in figures for p in figure.problems}
    noted = replace(selection, problems=(*selection.problems, *sorted(problems, key=lambda p: (p.where, p.problem))))
    subtitle = f"Made {generated_at}" if generated_at else ""
    return Document(
        title, subtitle, tuple(narrative.summarise(noted)), tuple(figures), tuple(_sections(noted, pictures)), noted,
        banner=provenance.simulated_words(selection),
    )  # fmt: skip


def _sections(selection: Selection, pictures: Pictures) -> list[Section]:
    timed = selection.timed
    found = [_grid(selection), _across(timed)]
    if len(selection.points) <= MOST_EXAMINED:
        found += [findings_section(timed), choice_section(timed)]
    else:
        found.append(_not_examined(selection))
    found.append(concurrency_section(timed))
    found += [_device(timed, name) for name in timed.classes]
    found.append(pipeline_section(selection))
    found.append(profiles_section(selection, pictures))
    covered = tuple(coverage.coverage_tables(selection))
    if covered:
        found.append(Section("outcomes-and-reasons", "What ran and what did not", "", covered))
    if selection.points:
        found.append(_origin(selection))
        found.append(Section("appendix", "Appendix", "", (results.appendix_table(selection),)))
    return [section for section in found if section is not None]


def _not_examined(selection: Selection) -> Section:
    said = (
        f"Not looked for: {text.number(len(selection.points), 0)} points are more than {text.number(MOST_EXAMINED, 0)}."
        " The report of fewer sweeps has them; farm recommend chooses among all."
    )
    return Section("findings", "Findings", said)


def _grid(selection: Selection) -> Section | None:
    table = grid.grid_table(selection)
    return None if table is None else Section("coverage", "Coverage", "", (table,))


def _across(selection: Selection) -> Section | None:
    """Device classes side by side. None where there is one class alone, or none that ran anything."""
    made = across.across_tables(selection)
    best, differing = best_table(selection), software_table(selection)
    shown = [t for t in (best, *(t for t in made if not t.wide), differing) if t is not None]
    folded = tuple(t for t in made if t.wide)
    if not shown and not folded:
        return None
    intro = "The same model, workflow, precision and switches on each device. Each number leads to its record."
    if not made:
        intro = "No workflow and precision ran with the same switches on two devices."
    figure = across_figure(selection)
    return Section("across", "Across devices", intro, tuple(shown), folded, () if figure is None else (figure,))


def _device(selection: Selection, name: str) -> Section | None:
    if not any(p.series.device_class == name and p.ok for p in (*selection.ok, *selection.accuracy)):
        return None
    made = tables.measured_tables(selection, name)
    folded = tuple(t for t in made if t.wide)
    shown = tuple(t for t in made if not t.wide)
    intro = f"{_device_words(selection, name)}. Each number leads to its record."
    return Section(f"on-{slug(name)}", name, intro, shown, folded) if made else None


def _origin(selection: Selection) -> Section:
    differing = provenance.difference_table(selection)
    facts = tuple(provenance.provenance_table(selection, name) for name in selection.classes)
    shown = () if differing is None else (differing,)
    return Section("origin", "Provenance", _agreement(selection), shown, tuple(t for t in facts if t.groups))


def _device_words(selection: Selection, name: str) -> str:
    found = {}
    for p in selection.points:
        if p.record.device is not None and class_of(p.record.job, (p.record,)) == name:
            device = p.record.device
            found[device.device_id] = f"{device.name} ({device.device_id} on {device.host})"
    return ", ".join(found[key] for key in sorted(found))


def _agreement(selection: Selection) -> str:
    if any(provenance.differences(selection, name) for name in selection.classes):
        return "Some facts differ between runs that stand side by side."
    if len(selection.ran) < 2:
        return ""
    return (
        "Within each device class, the runs agree in host, stack, protocol and versions, so far as they recorded them."
    )
