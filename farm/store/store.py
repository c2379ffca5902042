# SPDX-License-Identifier: Apache-2.0
"""The store: sweeps, records, blobs, and an index that can be thrown away. One directory, here or on a mount.

`store.json` holds the layout's version; `sweeps`, `nights`, `decisions`, `records`, `blobs` and `index` are described
in their modules.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path

from farm.contract.record import BlobRef, Record
from farm.errors import UnavailableError
from farm.store import files
from farm.store.blobs import BlobStore
from farm.store.compact import Compacted, compact, due, plan, remove
from farm.store.documents import DocumentStore
from farm.store.gc import GRACE_S, Collector, Sweepings, alone
from farm.store.index import Index
from farm.store.records import BadRecord, RecordStore, names_any
from farm.store.schema import RecordError, decode_json, encode_json
from farm.store.sweeps import SweepStore
from farm.store.verify import Problem, verify_store

LAYOUT = 1
#: Of a store with compacted days, which a farm from before there were any would take for damage.
COMPACTED = 2


@dataclass(frozen=True)
class ArtifactRow:
    """One file that one run made, used or measured, and the run it belongs to. `batch_size` is None for a whole job.

    `process` is which of the run's processes it is of, None where there is but one, or where it is of all.
    """

    run_id: str
    sweep_id: str
    sweep: str
    model: str
    workflow: str
    precision: str
    batch_size: int | None
    device_id: str | None
    outcome: str
    kind: str
    sha256: str
    size_bytes: int
    cached: bool
    process: int | None = None


class Store:
    """A store's directory. Constructing one touches nothing; `create` makes a new one, and mends an old one's folders.

    The directories are made by `create` alone, never by a write: a write to a mount that is away must fail, and not
    begin a second store below the mount point.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = BlobStore(root / "blobs")
        self.records = RecordStore(root / "records")
        self.sweeps = SweepStore(root / "sweeps")
        #: What each night did and found, by its date; rewritten while the night goes on.
        self.nights = DocumentStore(root / "nights", "night", "`farm nightly status` lists nights.")
        #: What people accepted of what nights found; written once.
        self.decisions = DocumentStore(root / "decisions", "decision", "`farm regressions list` shows them.")

    @property
    def documents(self) -> tuple[DocumentStore, ...]:
        """Everything that is kept as documents by name."""
        return self.sweeps, self.nights, self.decisions

    @cached_property
    def index(self) -> Index:
        """The index of the records, in the store's own directory."""
        return Index(self.records, self.root / "index")

    def create(self) -> None:
        """Make the directories that are missing. Harmless on a store that is there.

        Raises:
            UnavailableError: they cannot be made, or a newer farm made the store.
        """
        with files.store_errors("create the store", self.root):
            files.make_root(self.root)
        self.layout()
        self.blobs.create()
        self.records.create()
        self.sweeps.create()
        self.nights.create()
        self.decisions.create()
        with files.store_errors("create", self.root), files.temp_file(self.sweeps.temp) as temp:
            temp.write(encode_json({"layout": LAYOUT}))
            files.seal(temp)
            files.publish_new(Path(temp.name), self._marker)

    def check_writable(self) -> None:
        """Write, flush and remove a small file in each part of the store.

        Raises:
            UnavailableError: with the path, the cause and the remedy.
        """
        self.layout()
        self.blobs.check_writable()
        self.records.check_writable()
        with files.store_errors("write to", self.sweeps.temp), files.temp_file(self.sweeps.temp) as temp:
            files.seal(temp)

    def artifacts(self, sweep_id: str | None = None, run_id: str | None = None) -> list[ArtifactRow]:
        """The files that records refer to: of one sweep, of one run, or all. The oldest run comes first.

        Raises:
            UsageError: there is no such run.
        """
        if run_id is not None:
            records: Iterator[Record | BadRecord] = iter([self.records.read(run_id)])
        else:
            records = self.records.iterate(sweep_id)
        return [
            _artifact_row(record, ref)
            for record in records
            if isinstance(record, Record) and sweep_id in (None, record.job.sweep_id)
            for ref in (*record.samples, *record.artifacts)
        ]

    def of_sweeps(self, sweep_ids: Collection[str]) -> Iterator[Record | BadRecord]:
        """The records of these sweeps, found through the index: no other record's file is opened, however many.

        A file that cannot be used comes as such where it names one of the sweeps, or looks cut short.

        Raises:
            UnavailableError: the index cannot be brought up to date, or read.
        """
        if not sweep_ids:
            return
        self.index.refresh()
        sql = "SELECT run_id FROM records WHERE sweep_id IN (SELECT unnest($wanted::VARCHAR[])) ORDER BY run_id"
        found: list[str] = []
        for (run_id,) in self.index.stream(sql, {"wanted": sorted(sweep_ids)}):
            found.append(str(run_id))
        yield from self.records.load_many(found)
        yield from (bad for bad in self.index.problems if names_any(bad.path, sweep_ids))

    def verify(self) -> Iterator[Problem]:
        """Read everything and yield what is wrong; see `farm.store.verify`. The index holds nothing of its own."""
        yield from verify_store(self.blobs, self.records, self.documents)

    def collect_garbage(
        self, *, grace_s: float = GRACE_S, dry_run: bool = False, despite_damage: bool = False
    ) -> Sweepings:
        """Remove blobs that nothing in the store refers to; see `farm.store.gc`. Raises as `Collector.collect`."""
        collector = Collector(self.root, self.blobs, self.records, self.documents)
        return collector.collect(grace_s=grace_s, dry_run=dry_run, despite_damage=despite_damage)

    def compact(self, before: date, *, dry_run: bool = False) -> Generator[Compacted, None, None]:
        """Put the records of each day before `before` into one file a day; see `farm.store.compact`.

        Yields what became of a day as soon as it is done; with `dry_run`, what would be looked at.

        Raises:
            UnavailableError: the store cannot be written, or something else that removes is at work. Nothing is lost.
        """
        if dry_run:
            yield from (plan(day) for day in due(self.records, before))
            return
        with alone(self.root):
            for day in due(self.records, before):
                self.mark(COMPACTED)
                yield compact(self.records, day)

    def remove_record(self, run_id: str) -> None:
        """Remove a run's record for good; its blobs go with the next collection. Raises as `farm.store.compact.remove`.

        The index follows with its next refresh.
        """
        with alone(self.root):
            remove(self.records, run_id)

    @property
    def _marker(self) -> Path:
        return self.root / "store.json"

    def mark(self, layout: int) -> None:
        """Note the layout, before anything of it is there."""
        if self.layout() != layout:
            with files.store_errors("write to", self.root), files.temp_file(self.sweeps.temp) as temp:
                temp.write(encode_json({"layout": layout}))
                files.seal(temp)
                files.publish_over(Path(temp.name), self._marker)

    def layout(self) -> int | None:
        """What the store's marker says; None where there is none. Raises UnavailableError for a newer farm's."""
        if not self._marker.exists():
            return None
        with files.store_errors("read", self._marker):
            data = self._marker.read_bytes()
        try:
            layout = decode_json(data).get("layout")
        except RecordError as error:
            hint = "Delete that file; the next `farm up` or `farm run` writes it again."
            raise UnavailableError(f"{self._marker} cannot be used: {error}", hint=hint) from error
        if not isinstance(layout, int) or layout > COMPACTED:
            raise UnavailableError(
                f"the store {self.root} was made by a newer farm (layout {layout}, this one knows {COMPACTED})",
                hint="Upgrade this farm, or point the `store` setting at another directory.",
            )
        return layout


def _artifact_row(record: Record, ref: BlobRef) -> ArtifactRow:
    job = record.job
    return ArtifactRow(
        run_id=record.run_id,
        sweep_id=job.sweep_id,
        sweep=job.sweep_name,
        model=job.model.label,
        workflow=job.workflow,
        precision=job.precision,
        batch_size=record.batch_size,
        device_id=record.device.device_id if record.device else job.target.device_id,
        outcome=record.outcome.value,
        kind=ref.kind,
        sha256=ref.sha256,
        size_bytes=ref.size_bytes,
        cached=ref.cached,
        process=ref.process,
    )
