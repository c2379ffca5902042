# SPDX-License-Identifier: Apache-2.0
"""Write a report: one self-contained HTML page, Markdown, CSV and PNG figures, each file replaced at once."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from farm.contract.job import JobSpec
from farm.contract.names import slug
from farm.contract.record import Record
from farm.errors import UnavailableError
from farm.report import coverage, drawing, markdown, narrative, provenance, results, tables
from farm.report.figures import Figure, Panel, make_figures
from farm.report.select import Selection, select
from farm.report.series import device_class as class_of
from farm.report.table import Table

FIGURE_NAMES = ("throughput", "latency", "distribution")


@dataclass(frozen=True)
class ReportFiles:
    """Where the parts of a written report are."""

    html: Path
    markdown: Path
    csv: Path
    figures: tuple[Path, ...]


@dataclass(frozen=True)
class Section:
    """A part of a report under one heading. `folded` tables are closed until they are asked for."""

    key: str
    title: str
    intro: str = ""
    tables: tuple[Table, ...] = ()
    folded: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Document:
    """A report before it takes a form."""

    title: str
    subtitle: str
    summary: tuple[narrative.Sentence, ...]
    figures: tuple[Figure, ...] = ()
    sections: tuple[Section, ...] = ()
    selection: Selection = field(default_factory=Selection, repr=False)


def write_report(
    records: Iterable[object],
    out_dir: Path,
    *,
    title: str,
    generated_at: str | None = None,
    samples: Callable[[Record], list[int] | None] | None = None,
    expected: Iterable[JobSpec] = (),
) -> ReportFiles:
    """Write index.html, report.md, results.csv and figures/*.png into `out_dir`, made if it is not there.

    `records` may hold unreadable ones (with `path` and `problem`) and foreign objects: they are listed. `samples`
    gives a record's raw latencies in ns, or None. `expected` are jobs that should have records. The same input gives
    the same bytes; `generated_at` is printed as it is, and nothing asks the clock.

    Raises:
        UnavailableError: `out_dir` cannot be written.
    """
    document = compose(records, title=title, generated_at=generated_at, samples=samples, expected=expected)
    out_dir = Path(out_dir)
    try:
        return _write_all(document, out_dir)
    except OSError as error:
        hint = "Choose a directory that you may write to, with space left, using -o DIR."
        raise UnavailableError(
            f"cannot write the report into {out_dir}: {error.strerror or error}", hint=hint
        ) from error


def compose(
    records: Iterable[object],
    *,
    title: str,
    generated_at: str | None = None,
    samples: Callable[[Record], list[int] | None] | None = None,
    expected: Iterable[JobSpec] = (),
) -> Document:
    """Everything that a report says, in order, in no form yet."""
    selection = select(records, expected)
    figures = make_figures(selection, samples) if selection.ok else []
    problems = {p for figure in figures for p in figure.problems}
    noted = replace(selection, problems=(*selection.problems, *sorted(problems, key=lambda p: (p.where, p.problem))))
    subtitle = f"Made {generated_at}" if generated_at else ""
    return Document(title, subtitle, tuple(narrative.summarise(noted)), tuple(figures), tuple(_sections(noted)), noted)


def _sections(selection: Selection) -> list[Section]:
    sections = []
    for name in selection.classes:
        made = (
            tables.measured_tables(selection, name)
            if any(p.series.device_class == name and p.ok for p in (*selection.ok, *selection.accuracy))
            else []
        )
        folded = tuple(t for t in made if t.wide)
        shown = tuple(t for t in made if not t.wide)
        if made:
            sections.append(Section(f"on-{slug(name)}", name, _device_words(selection, name), shown, folded))
    covered = tuple(coverage.coverage_tables(selection))
    if covered:
        sections.append(Section("coverage", "What ran and what did not", "", covered))
    if selection.points:
        differing = provenance.difference_table(selection)
        facts = tuple(provenance.provenance_table(selection, name) for name in selection.classes)
        shown = () if differing is None else (differing,)
        sections.append(
            Section("origin", "Provenance", _agreement(selection), shown, tuple(t for t in facts if t.groups))
        )
        sections.append(Section("appendix", "Appendix", "", (results.appendix_table(selection),)))
    return sections


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
    if len(selection.ok) < 2:
        return ""
    return (
        "Within each device class, the runs agree in host, stack, protocol and versions, so far as they recorded them."
    )


def to_html(document: Document) -> str:
    """The page: inline style and drawings, no script, no request, escaped throughout."""
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["slug"] = slug
    environment.filters["soft"] = lambda words: markupsafe.escape(words).replace("_", markupsafe.Markup("_<wbr>"))

    def drawn(panel: Panel, prefix: str) -> markupsafe.Markup:
        return markupsafe.Markup(drawing.to_svg(panel.spec, prefix))  # noqa: S704

    template = environment.get_template("report.html.j2")
    return template.render(document=document, palette=drawing.PALETTE, drawn=drawn)


def to_markdown(document: Document) -> str:
    """The same report as Markdown; figures are the PNG files beside it."""
    lines = [f"# {markdown.escape(document.title)}", ""]
    if document.subtitle:
        lines += [markdown.escape(document.subtitle), ""]
    lines += [f"- {markdown.escape(sentence.text)}" for sentence in document.summary]
    lines.append("")
    for figure in document.figures:
        alt = markdown.escape(f"{figure.title}. {figure.caption}")
        lines += [f"![{alt}](figures/{figure.key}.png)", ""]
    for section in document.sections:
        lines += [f"## {markdown.escape(section.title)}", ""]
        lines += [markdown.escape(section.intro), ""] if section.intro else []
        lines += [markdown.table(table) for table in (*section.tables, *section.folded)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _write_all(document: Document, out_dir: Path) -> ReportFiles:
    figures_dir = out_dir / "figures"
    figures_dir.mkdir(parents=True, exist_ok=True)
    written = []
    for figure in document.figures:
        written.append(_write(figures_dir / f"{figure.key}.png", drawing.to_png(figure.sheet)))
    for stale in set(FIGURE_NAMES) - {figure.key for figure in document.figures}:
        (figures_dir / f"{stale}.png").unlink(missing_ok=True)
    csv_path = _write(out_dir / "results.csv", results.csv_text(document.selection).encode())
    markdown_path = _write(out_dir / "report.md", to_markdown(document).encode())
    html_path = _write(out_dir / "index.html", to_html(document).encode())
    return ReportFiles(html_path, markdown_path, csv_path, tuple(written))


def _write(path: Path, data: bytes) -> Path:
    """Write beside the target, then rename: a reader sees the old file or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
