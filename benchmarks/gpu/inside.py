#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A page for docs/results with what is inside of the runs of stores: `benchmarks/gpu/inside.py STORE... -o PAGE.md`.

Requests in flight, whole pipelines and timelines, as `farm report` tells them, sweep by sweep, so that nothing has to
be named but what differs within one. Figures go beside the page, in a directory of its name. Needs Pillow, as paper.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from paper import small

from farm.contract.names import slug
from farm.contract.record import Record
from farm.report.compose import compose
from farm.report.document import Document, Section
from farm.report.figures import Figure
from farm.report.profiles import pictures_in
from farm.report.render import figure_file, to_markdown
from farm.store import Store

SECTIONS = ("concurrency", "pipeline", "profiles")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="+", type=Path, metavar="STORE")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PAGE.md")
    parser.add_argument("--title", default="Inside of the runs")
    options = parser.parse_args(arguments)
    sections = tuple(section for path in options.stores for section in inside(Store(path)))
    if not sections:
        parser.error("no record of these stores is a study of concurrency or of a pipeline, or was profiled")
    write(Document(options.title, "", (), (), sections, None), options.output)


def inside(store: Store) -> Iterator[Section]:
    """The sections of each sweep of a store."""
    records = [record for record in store.records.iterate() if isinstance(record, Record)]
    for name in dict.fromkeys(record.job.sweep_name for record in records):
        mine = [record for record in records if record.job.sweep_name == name]
        document = compose(mine, title=name, pictures=pictures_in(store))
        for section in document.sections:
            if section.key in SECTIONS:
                title = f"{name}: {section.title[0].lower()}{section.title[1:]}"
                figures = tuple(replace(figure, key=f"{slug(name)}-{figure.key}") for figure in section.figures)
                yield replace(section, title=title, figures=figures)


def write(document: Document, page: Path) -> None:
    """Write the page, which names the command that made it, and its figures."""
    beside = page.with_suffix("")
    beside.mkdir(parents=True, exist_ok=True)
    for figure in document.all_figures:
        (beside / figure.file).write_bytes(drawn(figure))
    title, _, rest = to_markdown(document).partition("\n")
    made = f"Made from the records by:\n\n    python benchmarks/gpu/inside.py STORE... -o {page}\n"
    page.write_text(f"{title}\n\n{made}{rest}".replace("](figures/", f"]({beside.name}/"))


def drawn(figure: Figure) -> bytes:
    """The file of a figure: a chart as a small PNG, a drawing as SVG."""
    return small(figure_file(figure)) if figure.sheet else figure_file(figure)


if __name__ == "__main__":
    main()
