#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long the judgement and the report of a night take, and how much memory, with how many records in the store.

    python benchmarks/report_scale.py [--records 10000 --records 100000 --records 1000000] [--json FILE]

Makes a store as a farm of four devices has it that measures 1,000 points every night (10 models, 5 workflows, 5 batch
sizes): 10,000 records are 10 nights, 1,000,000 are 1,000. What is made up, and what is real:

- Every record has its row in the index, and its file's name in the store.
- The last night's 1,000 records are real files; so are those of 20 series over the last 60 nights, which change on the
  last one (10 % slower, another onnxruntime), so that there are causes to look up. All other names are hard links to
  one record's file: whoever reads them would see another run's record, and the check at the end would find it.
- Five files of the last night are none that can be used: cut short, foreign JSON, without a job, of another schema, of
  another run.
- Every night has its document and its sweep.

Then, each in a fresh process: `judge` (index refreshed, history of 60 nights read, triggers, what is said of the
night) and `report` (the index refreshed, and the page with what changed, coverage, tables, figures and provenance of
the night's own records). Prints seconds and the peak of resident memory, and fails if the report does not name the
changes and the bad files.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.speed.memory import peak_mib  # noqa: E402 - found by the line above
from farm.contract.device import DeviceInfo, StackInfo  # noqa: E402
from farm.contract.job import JobSpec  # noqa: E402
from farm.contract.outcome import Outcome  # noqa: E402
from farm.contract.record import Record  # noqa: E402
from farm.store import Store  # noqa: E402
from farm.store.columns import COLUMNS_DIGEST, row_of  # noqa: E402
from farm.store.index_writer import KINDS  # noqa: E402
from farm.store.parquet import copy_parquet, write_parquet  # noqa: E402
from farm.store.schema import encode_json, encode_record  # noqa: E402
from farm.summary import summarise  # noqa: E402
from farm.sweep import SweepSpec, load_sweep  # noqa: E402
from scheduler.expand import jobs_at  # noqa: E402

FIRST = datetime(2024, 1, 1, 1, tzinfo=UTC)
DEVICES = ("lab1-cpu", "lab2-cpu", "lab3-cpu", "lab4-cpu")
POINTS_A_NIGHT = 1000
CHANGED = 20
WINDOW = 60
NIGHTS_A_PART = 100
STEPS = ("judge", "report")
#: The kernel allows 65,000 names of one file.
MOST_LINKS = 60_000
SWEEP = """
name: nightly
protocol: nightly
models: [resnet18, resnet34, resnet50, resnet101, resnet152, vgg11, vgg16, mobilenet_v2, squeezenet1_0, squeezenet1_1]
workflows:
  - pytorch
  - {name: pytorch, channels_last: true}
  - onnxruntime_cpu
  - onnxruntime_cuda
  - openvino
precisions: [fp32]
batch: [1, 2, 4, 8, 16]
"""


def make_store(root: Path, records: int) -> str:
    """Make the store; return its last night."""
    store = Store(root)
    store.create()
    nights = records // POINTS_A_NIGHT
    last = nights - 1
    template = [record for job in _jobs(0).values() for record in _records(job)]
    changed = template[:CHANGED]
    real = [_on(base, n) for base in changed for n in range(max(0, nights - WINDOW), last)]
    real += [_on(base, last, slower=base in changed) for base in template]
    for record in real:
        _put(store, record)
    _write_index(store, template, real, nights)
    _write_names(store, real)
    for n in range(nights):
        _write_night(store, n, last)
    _write_bad(store, _spec(last).sweep_id, last)
    return _date(last)


@functools.cache
def _spec(night: int) -> SweepSpec:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(SWEEP)
        file.flush()
        return load_sweep(Path(file.name)).repeated(night)


@functools.lru_cache(maxsize=WINDOW + 1)
def _jobs(night: int) -> dict[str, JobSpec]:
    """A night's jobs, by what stays the same from night to night."""
    made = jobs_at(_spec(night), [f"dev:{name}" for name in DEVICES], {})
    return {f"{job.name} {job.options} {job.target.device_id}": job for job in made}


def _records(job: JobSpec) -> Iterator[Record]:
    device = DeviceInfo(str(job.target.device_id), "cpu-simulated", "cpu", "lab", "Simulated CPU", {"cores": 8})
    stack = StackInfo("default", "/opt/python", "3.12.4", {"torch": "2.8.0", "onnxruntime": "1.20.0"})
    for batch in job.batches.sizes:
        base = 1e6 * (5 + 3 * (hash_of(job.name) % 7)) * batch**0.9
        raw = [round(base * (1 + 0.004 * ((37 * i) % 11 - 5) / 5)) for i in range(60)]
        summary = summarise(raw, batch_size=batch, wall_ns=sum(raw))
        costs = {"host_rss_peak_bytes": 4e8 + 1e6 * batch, "load_ms": 80.0, "build_s": 2.0, "engine_bytes": 4.6e7,
                 "first_inference_ms": 30.0, "cpu_utilisation": 7.5, "mismatch_1e-3_pct": 0.01}  # fmt: skip
        yield Record(
            run_id=job.run_id(batch), outcome=Outcome.OK, job=job, batch_size=batch, attempt=1,
            started_at=FIRST.isoformat(timespec="microseconds"), finished_at=FIRST.isoformat(timespec="microseconds"),
            device=device, stack=stack, metrics={**summary.metrics, **costs}, intervals=dict(summary.intervals),
            withheld=dict(summary.withheld), mismatch=[], flags=[], samples=[],
            ladder_stop="end" if batch == max(job.batches.sizes) else None,
            host={"hostname": "lab", "kernel": "6.12.1"}, effective={"threads": 8},
            environment={"libraries": {"torch": "2.8.0", "onnxruntime": "1.20.0"}},
            provenance={"farm_version": "0.1.0", "simulated": True},
        )  # fmt: skip


def _on(base: Record, night: int, *, slower: bool = False) -> Record:
    """The record of a point on a night."""
    job = _jobs(night)[f"{base.job.name} {base.job.options} {base.job.target.device_id}"]
    noise = 1 + 0.008 * ((hash_of(f"{base.run_id} {night}") % 1000) / 1000 - 0.5)
    metrics = {**base.metrics, "latency_ms": base.metrics["latency_ms"] * noise * (1.1 if slower else 1.0)}
    libraries = {"torch": "2.8.0", "onnxruntime": "1.21.0" if slower else "1.20.0"}
    moment = (FIRST + timedelta(days=night)).isoformat(timespec="microseconds")
    return replace(base, run_id=job.run_id(base.batch_size), job=job, metrics=metrics, intervals={},
                   environment={"libraries": libraries}, started_at=moment, finished_at=moment)  # fmt: skip


def hash_of(text: str) -> int:
    """A number that stays the same from run to run."""
    return zlib.crc32(text.encode())


def _put(store: Store, record: Record) -> None:
    """Both names of a record's file, as the store makes them but for the flushes, of which there would be thousands."""
    name, day = store.records.path(record.run_id), store.records.day_path(record)
    for path in (name, day):
        path.parent.mkdir(parents=True, exist_ok=True)
    name.write_bytes(encode_record(record))
    os.link(name, day)


def _write_index(store: Store, template: list[Record], real: list[Record], nights: int) -> None:
    """Rows of real records as the index makes them; of the others from their point's, a night at a time, in SQL."""
    directory = store.root / "index"
    directory.mkdir()
    write_parquet(map(_row, real), KINDS, directory / f"part-{'0' * 24}.parquet")
    base = store.root / "base.parquet"
    write_parquet(map(_row, template), KINDS, base)
    parts = [f"part-{'0' * 24}.parquet"]
    for start in range(0, nights - 1, NIGHTS_A_PART):
        stop = min(start + NIGHTS_A_PART, nights - 1)
        name = f"part-{start + 1:024x}.parquet"
        sweeps = ", ".join(f"({n}, '{_spec(n).sweep_id}')" for n in range(start, stop))
        noise = "(1 + 0.008 * ((hash(run_id || n) % 1000) / 1000.0 - 0.5))"
        made = f"""SELECT * EXCLUDE (n, id) REPLACE (run_id || '-' || n AS run_id, job_id || '-' || n AS job_id,
            sweeps.id AS sweep_id, started_at + to_days(n::INTEGER) AS started_at,
            finished_at + to_days(n::INTEGER) AS finished_at,
            strftime(finished_at + to_days(n::INTEGER), '%Y/%m/%d') AS record_day, latency_ms * {noise} AS latency_ms)
            FROM read_parquet('{base}'), (VALUES {sweeps}) AS sweeps(n, id)
            WHERE n < {max(0, nights - WINDOW)} OR run_id NOT IN
                (SELECT run_id FROM (SELECT run_id FROM read_parquet('{base}') LIMIT {CHANGED}))"""
        copy_parquet(made, directory / name)
        parts.append(name)
    base.unlink()
    # No day is known to be whole: the first refresh looks through all names, and opens what it does not find.
    (directory / "current.json").write_text(json.dumps({"columns": COLUMNS_DIGEST, "parts": parts, "days": {}}))


def _row(record: Record) -> dict[str, Any]:
    return {**row_of(record), "record_day": record.finished_at[:10].replace("-", "/")}


def _write_names(store: Store, real: list[Record]) -> None:
    """A name in the store for each row that has no file: a hard link to a record that nobody should open."""
    known = {record.run_id for record in real}
    source = store.records.path(real[0].run_id)
    count = MOST_LINKS
    for run_id, finished in store.index.stream("SELECT run_id, finished_at FROM records ORDER BY finished_at"):
        if run_id in known:
            continue
        if count >= MOST_LINKS:
            copy = store.root / "links" / str(len(list((store.root / "links").glob("*"))))
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(source.read_bytes())
            source, count = copy, 1
        day = store.root / "records" / finished.strftime("%Y/%m/%d")
        day.mkdir(parents=True, exist_ok=True)
        os.link(source, day / f"{run_id}.json")
        count += 1


def _write_night(store: Store, number: int, last: int) -> None:
    places = {"places": [f"dev:{name}" for name in DEVICES], "narrowed": {}}
    document: dict[str, object] = {**_spec(number).document(), **places}
    store.sweeps.path(_spec(number).sweep_id).write_bytes(encode_json(document))
    document = {"schema": 1, "night": _date(number), "sweeps": [_spec(number).sweep_id], "run": {}, "assessed_at": "",
                "canaries": {}, "triggers": [], "confirmations": [], "missed": [], "events": [], "series": None,
                "left_out": {}, "problems": []}  # fmt: skip
    if number < last:
        document["assessed_at"] = (FIRST + timedelta(days=number, hours=5)).isoformat(timespec="microseconds")
        document["series"] = {"schema": 1, "memory": {}}
    store.nights.path(_date(number)).write_bytes(encode_json(document))


def _write_bad(store: Store, sweep_id: str, last: int) -> None:
    day = store.root / "records" / (FIRST + timedelta(days=last)).strftime("%Y/%m/%d")
    good = next(day.glob("*.json")).read_bytes()
    document = json.loads(good)
    bad = {
        "cut-short": good[: len(good) // 2],
        "foreign": json.dumps({"sweep_id": sweep_id, "rows": [1, 2]}).encode(),
        "no-job": json.dumps({k: v for k, v in document.items() if k != "job"} | {"of": sweep_id}).encode(),
        "schema-99": json.dumps({**document, "schema": 99}).encode(),
        "another-run": good,
    }
    for name, data in bad.items():
        (day / f"bad-{name}.json").write_bytes(data)


def _date(number: int) -> str:
    return (FIRST + timedelta(days=number)).strftime("%Y-%m-%d")


def measure(what: str, root: Path, night: str) -> dict[str, float]:
    """Do one step in this process; seconds with imports, and peak resident memory in MiB."""
    begun = time.perf_counter()
    store = Store(root)
    if what == "judge":
        from farm.history import nights

        nights.write(store, nights.conclude(store, nights.assess(store, night)))
    else:
        from farm.reporting import report_night

        report_night(store, night, root / "report", samples=lambda _record: None)
    peak = peak_mib()
    # Beside the wall clock: what is left of it on a quiet machine.
    used = round(time.process_time(), 1)
    return {"seconds": round(time.perf_counter() - begun, 1), "cpu_seconds": used, "peak_mib": round(peak)}


def check(root: Path) -> None:
    """The page names the changes with their cause and every bad file, and links all that it should.

    Raises:
        SystemExit: it does not.
    """
    page = (root / "report" / "index.html").read_text()
    wanted = ["onnxruntime 1.20.0 -&gt; 1.21.0", *(f"bad-{name}.json" for name in ("cut-short", "foreign", "no-job",
              "schema-99", "another-run")), "1\u202f000 of 1\u202f000 points ran"]  # fmt: skip
    absent = [words for words in wanted if words not in page]
    if absent:
        raise SystemExit(f"the report of {root} does not say: {', '.join(absent)}")


def _measured(root: Path, records: int) -> dict[str, object]:
    night = make_store(root, records)
    row: dict[str, object] = {"records": records}
    print(f"{records} records are there; the night is {night}", file=sys.stderr, flush=True)
    for step in STEPS:
        command = [sys.executable, __file__, "--measure", step, str(root), night]
        out = subprocess.run(command, capture_output=True, text=True, check=False)
        if out.returncode:
            raise SystemExit(out.stderr)
        row[step] = json.loads(out.stdout.splitlines()[-1])
        print(step, row[step], file=sys.stderr, flush=True)
    check(root)
    return row


def main() -> None:
    """Make each store, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, action="append", help="how many; may be given several times")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--keep", type=Path, help="make the stores below this directory, and leave them")
    parser.add_argument("--measure", nargs=3, metavar=("STEP", "STORE", "NIGHT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        step, root, night = given.measure
        print(json.dumps(measure(step, Path(root), night)))
        return
    found = []
    for records in given.records or [10_000, 100_000, 1_000_000]:
        root = Path(tempfile.mkdtemp(dir=given.keep, prefix="report-scale-")) / "store"
        try:
            found.append(_measured(root, records))
        finally:
            if given.keep is None:
                shutil.rmtree(root.parent)
        print(found[-1], flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
