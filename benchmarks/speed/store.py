# SPDX-License-Identifier: Apache-2.0
"""A store of 1,000,000 records (SPEED_STORE_RECORDS sets another number): the index made anew, and asked.

1,000 records a night, as a farm of four devices has them; all nights but the last 30 are compacted, the default.
Records are whole: one night's are made in full, the others differ from them in run, job, sweep and date, also in their
JSON. Days' files are written by a query, not by compacting what had files before; what compacting costs is measured on
one more night. Names by run, which neither the index nor a question looks at, are there for that night alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.speed.line import Line
from benchmarks.speed.one import main
from farm.contract.record import Record
from farm.settings import Settings
from farm.store import Store, daily
from farm.store.parquet import copy_parquet, quoted
from farm.store.schema import encode_record

RECORDS = int(os.environ.get("SPEED_STORE_RECORDS", "1000000"))
A_NIGHT = 1000
LOOSE_NIGHTS = Settings.model_fields["compact_after_days"].default
FIRST = datetime(2023, 1, 1, 1, tzinfo=UTC)
#: The process whose time and memory are told; the last line of its output is its peak of resident memory in MiB. Not
#: by getrusage, which counts what the parent had before exec.
_CODE = """
import re, sys
from pathlib import Path
{work}
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""
_REBUILD = "from farm.store import Store\nassert Store(Path(sys.argv[1])).index.rebuild() == int(sys.argv[2])"
_ASK = """
from farm.cli.main import main
try:
    main(["--store", sys.argv[1], "results", "--where", sys.argv[2], "--format", "csv"])
except SystemExit as ended:
    assert not ended.code
"""


def measure(rounds: int) -> list[Line]:
    """The index of the whole store made anew (at most three times: it takes a minute), and questions to it."""
    with tempfile.TemporaryDirectory(prefix="inferfarm-store-") as place:
        store = Store(Path(place) / "store")
        count = make(store, RECORDS // A_NIGHT)
        rebuilt = [_timed(_REBUILD, store, str(count)) for _ in range(min(rounds, 3))]
        where = "model = 'model-3' and batch_size = 4 and sweep like 'night-%7' and latency_ms < 12"
        asked = [_timed(_ASK, store, where) for _ in range(rounds)]
        removed = [_removal(store, number) for number in range(rounds)]
        compacted = [_compaction(store, number) for number in range(rounds)]
    of = f"{count:,} records"
    lines = [
        Line("store", f"index of {of} made anew", "s", tuple(s for s, _ in rebuilt), limit=120.0),
        Line("store", f"peak memory: index of {of} made anew", "MiB", tuple(m for _, m in rebuilt)),
        Line("store", f"`farm results --where`, {of} indexed", "s", tuple(s for s, _ in asked), limit=2.0),
        Line("store", f"peak memory: `farm results --where`, {of} indexed", "MiB", tuple(m for _, m in asked)),
        Line("store", f"index after one record was removed, {of}", "s", tuple(removed)),
    ]
    seconds, peaks = zip(*compacted, strict=True)
    lines.append(Line("store", f"a night of {A_NIGHT:,} records compacted", "s", seconds))
    lines.append(Line("store", f"peak memory: a night of {A_NIGHT:,} records compacted", "MiB", peaks))
    return lines


def make(store: Store, nights: int) -> int:
    """Fill a new store; return how many records it has."""
    store.create()
    template = _template()
    base = store.root / "base.parquet"
    daily.write(base, _day(0), ((record, encode_record(record)) for record in template))
    loose = min(LOOSE_NIGHTS, nights // 2)
    for night in range(nights):
        directory = store.records.root / _day(night)
        directory.mkdir(parents=True)
        if night >= nights - loose:
            _write_files(template, night, directory)
        else:
            copy_parquet(_night_sql(base, night), directory / daily.NAME, 2048)
    base.unlink()
    return nights * A_NIGHT


def _template() -> list[Record]:
    from tests.factories import make_job, make_record

    made = []
    for number in range(A_NIGHT):
        ids = {"job_id": f"night-0000-job-{number // 5:03}", "sweep_id": "night-0000", "sweep_name": "night-0000"}
        job = make_job(model=f"model-{number // 5 % 10}", **ids)
        metrics = {"latency_ms": 8 + number % 97 / 10, "throughput_per_s": 121.2, "sample_count": 50.0}
        host = {"hostname": "box", "kernel": "6.1.0", "libraries": {f"library-{n}": f"1.{n}.0" for n in range(60)}}
        times = {
            "started_at": FIRST.isoformat(),
            "finished_at": (FIRST + timedelta(seconds=number)).isoformat(),
        }
        run_id, batch = f"night-0000-run-{number:04}", 2 ** (number % 5)
        made.append(make_record(run_id=run_id, job=job, batch_size=batch, metrics=metrics, host=host, **times))
    return sorted(made, key=lambda record: record.run_id)


def _night_sql(base: Path, night: int) -> str:
    """The template's rows as another night's, their JSON with them."""
    days = f"INTERVAL {night} DAY"
    moved = f"replace(record_json, 'night-0000', '{_name(night)}')"
    moved = f"replace({moved}, '{FIRST:%Y-%m-%d}T', '{FIRST + timedelta(days=night):%Y-%m-%d}T')"
    names = ", ".join(f"replace({n}, 'night-0000', '{_name(night)}') AS {n}" for n in ("job_id", "sweep_id", "sweep"))
    inner = f"""SELECT * REPLACE (replace(run_id, 'night-0000', '{_name(night)}') AS run_id, {names},
        started_at + {days} AS started_at, finished_at + {days} AS finished_at, {moved} AS record_json,
        {quoted(_day(night))} AS record_day) FROM read_parquet({quoted(str(base))})"""
    return f"SELECT * REPLACE (sha256(record_json) AS record_sha256) FROM ({inner})"


def _write_files(template: list[Record], night: int, directory: Path) -> None:
    for record in template:
        data = _moved(encode_record(record), night)
        (directory / f"{record.run_id.replace('night-0000', _name(night))}.json").write_bytes(data)


def _moved(data: bytes, night: int) -> bytes:
    date = f"{FIRST + timedelta(days=night):%Y-%m-%d}T".encode()
    return re.sub(f"{FIRST:%Y-%m-%d}T".encode(), date, data.replace(b"night-0000", _name(night).encode()))


def _name(night: int) -> str:
    return f"night-{night:04}"


def _day(night: int) -> str:
    return f"{FIRST + timedelta(days=night):%Y/%m/%d}"


def _timed(work: str, store: Store, *args: str) -> tuple[float, float]:
    """Seconds of a process of its own, from its start to its end, and its peak of resident memory in MiB."""
    begun = time.perf_counter()
    command = [sys.executable, "-c", _CODE.format(work=work), str(store.root), *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - begun, float(done.stdout.splitlines()[-1])


def _removal(store: Store, number: int) -> float:
    """Take one record's file away, and refresh."""
    day = next(day for day in store.records.days() if day.names)
    (day.path / day.names[number]).unlink()
    begun = time.perf_counter()
    store.index.refresh()
    return time.perf_counter() - begun


def _compaction(store: Store, number: int) -> tuple[float, float]:
    """A night in a store of its own, written as the farm writes it: seconds and peak MiB of its compaction."""
    aside = Store(store.root.with_name(f"aside-{number}"))
    aside.create()
    for record in _template():
        aside.records.write(record)
    work = "from datetime import date\nfrom farm.store import Store\nlist(Store(Path(sys.argv[1])).compact(date.max))"
    found = _timed(work, aside)
    shutil.rmtree(aside.root)
    return found


if __name__ == "__main__":
    main(measure, __doc__)
