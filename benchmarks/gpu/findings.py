# SPDX-License-Identifier: Apache-2.0
"""Print what GPU records show, as Markdown: `python benchmarks/gpu/findings.py STORE...`."""

from __future__ import annotations

import sys
from pathlib import Path

from farm.contract.outcome import Outcome
from farm.contract.record import Record
from farm.findings import find
from farm.report.document import Document
from farm.report.findings import section_of
from farm.report.render import to_markdown
from farm.store import Store

_COMMAND = "python benchmarks/gpu/findings.py STORE... > docs/results/h200-findings.md"


def main() -> None:
    """Read all stores, find, print."""
    stores = [Store(Path(path)) for path in sys.argv[1:]]
    records = {r.run_id: r for store in stores for r in store.records.iterate() if isinstance(r, Record)}
    section = section_of(find(records.values()), {})
    if section is None:
        raise SystemExit("no rule had anything to examine in these stores")
    page = to_markdown(Document(title(records), subtitle(records), sections=(section,)))
    print(page.replace("COMMAND", f"\n\n    {_COMMAND}\n\n"), end="")


def title(records: dict[str, Record]) -> str:
    """By the devices that ran."""
    names = sorted({record.device.name for record in records.values() if record.device})
    return f"Found in the records of {', '.join(names)}"


def subtitle(records: dict[str, Record]) -> str:
    """Of what the page is made, and how."""
    ran = [record for record in records.values() if record.outcome is Outcome.OK]
    boards = {record.device.device_id for record in ran if record.device}
    days = sorted({record.started_at[:10] for record in ran})
    processes = max((len(record.processes) or 1 for record in ran), default=0)
    when = " to ".join(dict.fromkeys((days[0], days[-1])))
    each = "one process" if processes == 1 else f"up to {processes} processes"
    return (
        f"Made from {len(ran)} runs that ended well, on {len(boards)} boards, of {when}, {each} each, by COMMAND"
        "The rules are in docs/findings.md. Two runs are held against one another only on the same board, under the"
        " same switches. Run ids are the records' names in the store."
    )


if __name__ == "__main__":
    main()
