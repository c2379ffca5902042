# SPDX-License-Identifier: Apache-2.0
"""Write a document: one self-contained HTML page, Markdown, tables and PNG figures, each file replaced at once."""

from __future__ import annotations

import functools
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from farm.contract.names import slug
from farm.errors import UnavailableError
from farm.report import drawing, markdown, results
from farm.report.document import Document, Section
from farm.report.figures import Figure, Panel

if TYPE_CHECKING:
    import jinja2
    import markupsafe

FIGURE_NAMES = ("throughput", "latency", "distribution", "across", "pareto")


@dataclass(frozen=True)
class ReportFiles:
    """Where the parts of a written report are; the tables of results are None without a selection."""

    html: Path
    markdown: Path
    csv: Path | None
    parquet: Path | None
    figures: tuple[Path, ...]


def write_document(document: Document, out_dir: Path) -> ReportFiles:
    """Write index.html, report.md and figures/*.png into `out_dir`, made if it is not there.

    A document with a selection has results.csv and results.parquet beside them. The same document gives the same bytes.

    Raises:
        UnavailableError: `out_dir` cannot be written.
    """
    try:
        return _write_all(document, out_dir)
    except OSError as error:
        raise _unwritable(out_dir, error) from error


def write_page(document: Document, path: Path) -> bool:
    """Write the page alone, as `path`; return whether it is another than was there. One that is the same is left.

    Raises:
        UnavailableError: it cannot be written.
    """
    data = to_html(document, with_tables=False).encode()
    try:
        if path.is_file() and path.read_bytes() == data:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, data)
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    return True


def _unwritable(out_dir: Path, error: OSError) -> UnavailableError:
    hint = "Choose a directory that you may write to, with space left, using -o DIR."
    return UnavailableError(f"cannot write the report into {out_dir}: {error.strerror or error}", hint=hint)


@functools.cache
def _environment() -> jinja2.Environment:
    """The templates, compiled once: a farm writes hundreds of pages a night."""
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
    return environment


def to_html(document: Document, *, with_tables: bool = True) -> str:
    """The page: inline style and drawings, no script, no request, escaped throughout.

    Args:
        with_tables: whether the same tables are beside it as files, which it names.
    """
    import markupsafe

    def drawn(panel: Panel) -> markupsafe.Markup:
        if panel.svg:
            return markupsafe.Markup(panel.svg)  # noqa: S704 - our own drawing, its words escaped
        return markupsafe.Markup(drawing.to_svg(panel.spec, prefixes[id(panel)]))  # noqa: S704

    prefixes = {
        id(panel): f"f{i}-{j}"
        for i, figure in enumerate(document.all_figures, 1)
        for j, panel in enumerate(figure.panels, 1)
    }
    template = _environment().get_template("report.html.j2")
    return template.render(document=document, palette=drawing.PALETTE, drawn=drawn, with_tables=with_tables)


def to_markdown(document: Document) -> str:
    """The same report as Markdown; figures are the PNG files beside it."""
    lines = [f"# {markdown.escape(document.title)}", ""]
    if document.banner:
        lines += [f"**{markdown.escape(document.banner)}**", ""]
    if document.subtitle:
        lines += [markdown.escape(document.subtitle), ""]
    lines += [f"- {markdown.escape(sentence.text)}" for sentence in document.summary]
    lines.append("")
    lines += _drawings(document.figures)
    for section in document.sections:
        lines += _section(section)
    return "\n".join(lines).rstrip("\n") + "\n"


def _section(section: Section) -> list[str]:
    lines = [f"## {markdown.escape(section.title)}", ""]
    lines += [markdown.escape(section.intro), ""] if section.intro else []
    if section.sentences:
        lines += [*(f"- {markdown.escape(sentence.text)}" for sentence in section.sentences), ""]
    lines += _drawings(section.figures)
    return lines + [markdown.table(table) for table in (*section.tables, *section.folded)]


def _drawings(figures: tuple[Figure, ...]) -> list[str]:
    found = []
    for figure in figures:
        alt = markdown.escape(f"{figure.title}. {figure.caption}")
        found += [f"![{alt}](figures/{figure.file})", ""]
    return found


def figure_file(figure: Figure) -> bytes:
    """What the file of a figure holds: a chart as PNG, a drawing of our own as SVG, with its legend."""
    if figure.sheet:
        return drawing.to_png(figure.sheet)
    return drawing.stacked(
        [panel.svg for panel in figure.panels], [(words, style.role) for words, style in figure.legend]
    )


def _write_all(document: Document, out_dir: Path) -> ReportFiles:
    figures_dir = out_dir / "figures"
    figures_dir.mkdir(parents=True, exist_ok=True)
    written = []
    for figure in document.all_figures:
        written.append(_write(figures_dir / figure.file, figure_file(figure)))
    for stale in set(FIGURE_NAMES) - {figure.key for figure in document.all_figures}:
        (figures_dir / f"{stale}.png").unlink(missing_ok=True)
    csv_path = parquet_path = None
    if document.selection is not None:
        csv_path = _write(out_dir / "results.csv", results.csv_text(document.selection).encode())
        parquet_path = results.write_result_parquet(document.selection, out_dir / "results.parquet")
    markdown_path = _write(out_dir / "report.md", to_markdown(document).encode())
    html_path = _write(out_dir / "index.html", to_html(document).encode())
    return ReportFiles(html_path, markdown_path, csv_path, parquet_path, tuple(written))


def _write(path: Path, data: bytes) -> Path:
    """Write beside the target, then rename: a reader sees the old file or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
