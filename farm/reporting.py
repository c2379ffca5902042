# SPDX-License-Identifier: Apache-2.0
"""What `farm report` does with a store: which records, which jobs should have some, which night."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path

from farm.comparing import asked_for
from farm.contract.job import JobSpec
from farm.contract.record import Record
from farm.errors import UsageError
from farm.history.calendar import check_night
from farm.report import ReportFiles, write_report
from farm.report.night import write_night_report
from farm.report.nights_index import pages_below, write_nights_index, write_series_pages
from farm.report.papers import write_paper
from farm.report.profiles import pictures_in
from farm.store import BadRecord, Store
from farm.sweep import SweepSpec

#: Gives the raw latencies of a record in ns, or None.
Samples = Callable[[Record], "list[int] | None"]

_NO_NIGHT = "`farm nightly run --now` measures one; `farm demo-history DIR` makes some up to look at."


def report_sweeps(
    store: Store,
    sweep_ids: Sequence[str],
    records: Iterable[Record | BadRecord],
    out_dir: Path,
    *,
    title: str | None,
    samples: Samples,
) -> ReportFiles:
    """Write the report of these sweeps, or of everything that people asked for if there are none. See `write_report`.

    Raises:
        UsageError: the store has no such sweep.
        UnavailableError: `out_dir` cannot be written.
    """
    chosen = list(records) if sweep_ids else asked_for(store, list(records))
    names = sorted({record.job.sweep_name for record in chosen if isinstance(record, Record)})
    return write_report(
        chosen,
        out_dir,
        title=title or ", ".join(names) or ", ".join(sweep_ids) or "All records",
        samples=samples,
        expected=[job for sweep_id in sweep_ids for job in expected_jobs(store, sweep_id)],
        pictures=pictures_in(store),
    )


def report_paper(
    name: str,
    store: Store,
    sweep_ids: Sequence[str],
    records: Iterable[Record | BadRecord],
    out_dir: Path,
    *,
    samples: Samples,
) -> list[ReportFiles]:
    """Write a paper's tables and figures from these sweeps, or from everything. See `write_paper`.

    Raises:
        UsageError: there is no such paper or sweep.
        UnavailableError: no record belongs to the paper, or `out_dir` cannot be written.
    """
    expected = [job for sweep_id in sweep_ids for job in expected_jobs(store, sweep_id)]
    return write_paper(name, records, out_dir, samples=samples, expected=expected)


def report_night(
    store: Store, night: str | None, out_dir: Path, *, samples: Samples, series_pages: Container[str] = ()
) -> ReportFiles:
    """Write the report of a night, by its UTC date, or of the newest one. `series_pages`: see `write_night_report`.

    Raises:
        UsageError: the date is none, or there is no such night.
        IntegrityError: its document cannot be used.
        UnavailableError: the store cannot be read or `out_dir` cannot be written.
    """
    names = store.nights.names()
    if night is None and not names:
        raise UsageError("there is no night in this store yet", hint=_NO_NIGHT)
    chosen = names[-1] if night is None else check_night(night)
    sweeps = store.nights.read(chosen).get("sweeps", [])
    expected = [job for sweep_id in sweeps for job in expected_jobs(store, sweep_id)]
    return write_night_report(store, chosen, out_dir, samples=samples, expected=expected, series_pages=series_pages)


def publish_nights(store: Store, root: Path, nights: Iterable[str] | int, *, samples: Samples) -> ReportFiles:
    """Write all pages of the nights: `root/index.html`, `root/series/ID`, and `root/NIGHT` for each of `nights`.

    Args:
        nights: the nights whose reports are written, or how many of the newest must have one: those there are kept.

    Raises:
        UsageError: there is no such night, or none at all.
        IntegrityError: a night's document cannot be used.
        UnavailableError: the store cannot be read or `root` cannot be written.
    """
    if not store.nights.names():
        raise UsageError("there is no night in this store yet", hint=_NO_NIGHT)
    if isinstance(nights, int):
        newest = store.nights.names()[-nights:] if nights else []
        nights = [name for name in newest if not (root / name / "index.html").is_file()]
    # Series first, since the reports link to their pages; the index last, since it links to the reports.
    trends = write_series_pages(store, root)
    for night in nights:
        report_night(store, night, root / night, samples=samples, series_pages=pages_below(root))
    return write_nights_index(store, trends, root)


def expected_jobs(store: Store, sweep_id: str) -> list[JobSpec]:
    """The jobs of a stored sweep: what has no record yet is shown as missing, not left out."""
    from scheduler.expand import jobs_at

    document = store.sweeps.read(sweep_id)
    spec = SweepSpec.from_document(document)
    return list(jobs_at(spec, document.get("places", ()), document.get("narrowed", {})))
