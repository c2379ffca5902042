# SPDX-License-Identifier: Apache-2.0
"""A page for docs/results with a paper's tables and figures: `benchmarks/gpu/paper.py PAPER STORE... -o PAGE.md`.

The same tables as `farm report --paper` gives of one store, from several: figures go beside the page, in a directory of
its name. Needs Pillow, to make them small.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from farm.report.document import Document
from farm.report.papers import compose_paper, papers
from farm.report.papers.published import paper
from farm.report.render import figure_file, to_markdown
from farm.store import Store

#: Left to the farm's own page: every record with its path.
LEFT_OUT = ("appendix",)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page of the only device class of the stores, or of the one named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paper", choices=sorted(papers()))
    parser.add_argument("stores", nargs="+", type=Path, metavar="STORE")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PAGE.md")
    parser.add_argument("--device-class", help="which, where the stores have several")
    options = parser.parse_args(arguments)
    records = [record for path in options.stores for record in Store(path).records.iterate()]
    made = compose_paper(paper(options.paper), records)
    if options.device_class is None and len(made) > 1:
        parser.error(f"--device-class: one of {', '.join(made)}")
    document = made[options.device_class or next(iter(made))]
    write(document, options.output, f"python benchmarks/gpu/paper.py {options.paper} STORE... -o {options.output}")


def write(document: Document, page: Path, command: str) -> None:
    """Write the page and its figures; the page names the command that made it."""
    kept = replace(document, sections=tuple(s for s in document.sections if s.key not in LEFT_OUT), selection=None)
    beside = page.with_suffix("")
    beside.mkdir(parents=True, exist_ok=True)
    for figure in kept.all_figures:
        made = figure_file(figure)
        (beside / figure.file).write_bytes(small(made) if figure.sheet else made)
    title, _, rest = to_markdown(kept).partition("\n")
    text = f"{title}\n\nMade from the records by:\n\n    {command}\n{rest}"
    page.write_text(text.replace("](figures/", f"]({beside.name}/").replace(", and so does results.csv", ""))


def small(png: bytes) -> bytes:
    """The picture in 32 colours, which its few flat ones do not miss."""
    stream = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(32).save(stream, "PNG", optimize=True)
    return stream.getvalue()


if __name__ == "__main__":
    main()
