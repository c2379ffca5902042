#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A page for docs/results with what is inside of the runs of stores: `benchmarks/gpu/inside.py STORE... -o PAGE.md`.

Requests in flight, whole pipelines and timelines, as `farm report` tells them, sweep by sweep, so that nothing has to
be named but what differs within one. Figures go beside the page, in a directory of its name. Needs Pillow, as paper.py.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from paper import write

from farm.contract.names import slug
from farm.contract.record import Record
from farm.report.concurrency import concurrency_section
from farm.report.document import Document, Section
from farm.report.pipeline import pipeline_section
from farm.report.profiles import pictures_in, profiles_section
from farm.report.select import select
from farm.store import Store


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
    command = f'python benchmarks/gpu/inside.py STORE... -o {options.output} --title "{options.title}"'
    write(Document(options.title, "", (), (), sections, None), options.output, command)


def inside(store: Store) -> Iterator[Section]:
    """The sections of each sweep of a store."""
    sweeps: dict[str, list[Record]] = defaultdict(list)
    for record in store.records.iterate():
        if isinstance(record, Record):
            sweeps[record.job.sweep_name].append(record)
    for name, records in sweeps.items():
        selection = select(records)
        for section in (
            concurrency_section(selection.timed),
            pipeline_section(selection),
            profiles_section(selection, pictures_in(store)),
        ):
            if section is not None:
                title = f"{name}: {section.title[0].lower()}{section.title[1:]}"
                figures = tuple(replace(figure, key=f"{slug(name)}-{figure.key}") for figure in section.figures)
                yield replace(section, title=title, figures=figures)


if __name__ == "__main__":
    main()
