# SPDX-License-Identifier: Apache-2.0
"""Records: written once, found fast, and never lost to a bad neighbour."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.contract.outcome import Failure, Outcome
from farm.contract.record import RECORD_SCHEMA, Record
from farm.errors import IntegrityError, UnavailableError, UsageError
from farm.store import BadRecord, Store
from tests.factories import make_job, make_record
from tests.store.processes import race, run_python

TRICKS = ["../x", "/etc/passwd", "a/b", "", ".", "..", "a..b", ".hidden", "a\n", "a\0", "x" * 129, "ü", "-a", "a b"]

finite = st.floats(allow_nan=False, allow_infinity=False)
# Surrogates are what undecodable bytes of a log become.
text = st.text(st.characters(codec=None), max_size=40)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,40}", fullmatch=True)
moments = st.datetimes().map(lambda moment: moment.isoformat(timespec="microseconds") + "+00:00")


@st.composite
def records(draw: st.DrawFn) -> Record:
    outcome = draw(st.sampled_from(Outcome))
    failure = None if outcome is Outcome.OK else Failure(draw(text), "ref", draw(text), draw(st.none() | text), None)
    return make_record(
        run_id=draw(names),
        job=make_job(sweep_name=draw(text), options=draw(st.dictionaries(text, st.integers() | text | st.none()))),
        outcome=outcome,
        failure=failure,
        batch_size=draw(st.none() | st.integers(1, 4096)),
        started_at=draw(moments),
        finished_at=draw(moments),
        metrics=draw(st.dictionaries(text, st.none() | finite)),
        device=draw(st.none() | st.just(make_record().device)),
        host=draw(st.dictionaries(text, st.recursive(st.booleans() | finite | text, st.lists))),
    )


def day_file(store: Store, record: Record) -> Path:
    return store.records.day_path(record)


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


@settings(max_examples=25, deadline=None)
@given(records())
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory))
        store.create()
        assert store.records.write(record)
        assert store.records.read(record.run_id) == record
        assert list(store.records.iterate()) == [record]
        assert list(store.verify()) == []
        assert store.index.refresh() == 1
        assert store.index.query().objects()[0]["run_id"] == record.run_id


def test_a_record_lies_under_the_day_on_which_it_finished_in_utc(store: Store) -> None:
    record = make_record(finished_at="2026-01-01T00:30:00.000000+02:00")
    store.records.write(record)
    path = store.root / "records/2025/12/31" / f"{record.run_id}.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    document = json.loads(path.read_text())
    assert document["run_id"] == record.run_id
    assert list(document) == sorted(document)
    assert path.read_bytes() == (json.dumps(document, sort_keys=True, indent=1) + "\n").encode()


def test_the_first_record_of_a_run_stays(store: Store) -> None:
    first = make_record()
    later = replace(first, attempt=2, finished_at="2026-03-02T00:00:00.000000+00:00")
    assert store.records.write(first)
    assert not store.records.write(later)
    assert not store.records.write(first)
    assert store.records.read(first.run_id) == first
    assert list(store.records.files()) == [day_file(store, first)]
    assert list((store.root / "records/tmp").iterdir()) == []


def test_a_run_without_a_record_is_said_so(store: Store) -> None:
    assert not store.records.exists("nothing-g0-b1")
    with pytest.raises(UsageError, match="no record of run nothing-g0-b1"):
        store.records.read("nothing-g0-b1")


@pytest.mark.parametrize("name", TRICKS)
def test_a_name_that_is_no_run_id_never_becomes_a_path(store: Store, name: str) -> None:
    before = sorted(store.root.rglob("*"))
    for use in (store.records.path, store.records.read, store.records.exists):
        with pytest.raises(UsageError, match="not allowed"):
            use(name)
    with pytest.raises(UsageError, match="not allowed"):
        store.records.write(make_record(run_id=name))
    with pytest.raises(UsageError, match="not allowed"):
        store.sweeps.write(name, {})
    assert sorted(store.root.rglob("*")) == before


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"metrics": {"latency_ms": float("nan")}}, "JSON"),
        ({"metrics": {"latency_ms": "fast"}}, "metrics"),
        ({"attempt": 1.5}, "attempt"),
        ({"finished_at": "yesterday"}, "yesterday"),
        ({"finished_at": "2026-03-01T10:00:00"}, "offset"),
        ({"host": {"path": Path("/tmp")}}, "JSON"),
        ({"schema": RECORD_SCHEMA + 1}, "newer farm"),
    ],
)
def test_a_record_that_could_not_be_read_again_is_refused(store: Store, fields: dict[str, Any], where: str) -> None:
    with pytest.raises(UsageError, match=where):
        store.records.write(make_record(**fields))
    assert list(store.records.files()) == []


BAD_FILES = {
    "empty": b"",
    "cut": b'{"run_id": "x", "job": {"sweep',
    "no-json": b"\xff\xfe",
    "list": b"[]\n",
    "nan": b'{"schema": 1, "attempt": NaN}\n',
    "deep": b"[" * 100_000,
    "no-schema": b"{}\n",
    "future": b'{"schema": 99}\n',
    "poor": b'{"schema": 1}\n',
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_reported_and_stops_nothing(store: Store, name: str) -> None:
    good = [make_record(batch_size=size) for size in (1, 2)]
    for record in good:
        store.records.write(record)
    bad = store.root / "records/2026/03/01" / f"{name}.json"
    bad.write_bytes(BAD_FILES[name])
    found = list(store.records.iterate())
    assert [f for f in found if isinstance(f, Record)] == good
    (problem,) = [f for f in found if isinstance(f, BadRecord)]
    assert problem.path == bad
    assert problem.problem
    assert [p.path for p in store.verify()] == [bad]
    assert store.index.refresh() == 2
    assert [p.path for p in store.index.problems] == [bad]


def test_numbers_out_of_range_in_a_file_stop_nothing(store: Store) -> None:
    """JSON has no limits: an integer too large for a float, and a float that is read as infinite."""
    record = make_record()
    store.records.write(record)
    document = json.loads(day_file(store, record).read_text())
    for name, number in {"big-int": "1" + "0" * 400, "big-float": "1e999", "long": "1" * 5000}.items():
        changed = json.dumps(document | {"run_id": name}).replace("8.25", number)
        (store.root / "records/2026/03/01" / f"{name}.json").write_text(changed)
    changed = json.dumps(document | {"run_id": "wide", "batch_size": 2**70})
    (store.root / "records/2026/03/01/wide.json").write_text(changed)
    kinds = {f.path.stem if isinstance(f, BadRecord) else f.run_id: type(f) for f in store.records.iterate()}
    assert kinds["big-int"] is kinds["long"] is BadRecord
    store.index.refresh()
    rows = {row["run_id"]: row for row in store.index.query().objects()}
    assert rows["wide"]["batch_size"] is None
    assert rows.get("big-float", {"latency_ms": None})["latency_ms"] is None


def test_a_newer_farms_record_says_so_politely(store: Store) -> None:
    record = make_record()
    store.records.write(record)
    path = store.records.path(record.run_id)
    overwrite(path, path.read_bytes().replace(b'\n "schema": %d' % RECORD_SCHEMA, b'\n "schema": 7'))
    with pytest.raises(IntegrityError, match=r"newer farm \(record schema 7, .* upgrade this one"):
        store.records.read(record.run_id)


def test_a_directory_in_the_place_of_a_record_stops_nothing(store: Store) -> None:
    store.records.write(make_record())
    (store.root / "records/2026/03/01/folder.json").mkdir()
    (store.root / "records/2027").write_text("no directory")
    assert [type(found) for found in store.records.iterate()] == [BadRecord, Record]


def test_iterating_one_sweep_gives_its_records_and_what_may_be_its(store: Store) -> None:
    mine = make_record(job=make_job(job_id="mine", sweep_id="sweep-a"))
    other = make_record(job=make_job(job_id="other", sweep_id="sweep-ab", options={"note": "sweep-a"}))
    for record in (mine, other):
        store.records.write(record)
    (store.root / "records/2026/03/01/cut.json").write_bytes(BAD_FILES["cut"])
    found = list(store.records.iterate("sweep-a"))
    assert [f for f in found if isinstance(f, Record)] == [mine]
    assert [f.path.name for f in found if isinstance(f, BadRecord)] == ["cut.json"]
    assert [f for f in store.records.iterate("sweep-c") if isinstance(f, Record)] == []


WRITE = """
store = Store(Path(sys.argv[1]))
wins = []
for number in range(30):
    day = 1 + int(sys.argv[2]) % 3
    record = make_record(run_id=f"run-{number}", attempt=int(sys.argv[2]), finished_at=f"2026-03-0{day}T10:00:00+00:00")
    if store.records.write(record):
        wins.append(number)
print(wins)
"""


def test_of_writers_at_once_exactly_one_wins_each_run(store: Store) -> None:
    """Writers are processes, and finish on different days."""
    wins = [json.loads(line) for line in race(WRITE, [[store.root, attempt] for attempt in (1, 2, 3, 4)])]
    assert sorted(number for won in wins for number in won) == list(range(30))
    for attempt, won in enumerate(wins, start=1):
        assert all(store.records.read(f"run-{number}").attempt == attempt for number in won)
    assert len(list(store.records.files())) == 30
    assert list(store.verify()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from farm.store import Store
from tests.factories import make_record
store = Store(Path(sys.argv[1]))
store.records._file_by_day = lambda temp, record: os.kill(os.getpid(), signal.SIGKILL)
store.records.write(make_record())
"""


def test_a_record_whose_writer_died_between_its_two_names_is_finished_by_the_next(store: Store) -> None:
    assert run_python(KILLED, store.root).returncode == -9
    record = make_record()
    assert store.records.exists(record.run_id)
    assert list(store.records.files()) == []
    an_hour_ago = time.time() - 3700
    os.utime(store.records.path(record.run_id), (an_hour_ago, an_hour_ago))
    assert any("not filed under its day" in p.message for p in store.verify())
    again = replace(record, attempt=2, finished_at="2026-03-05T00:00:00.000000+00:00")
    assert not store.records.write(again)
    assert list(store.records.iterate()) == [record]


def test_a_good_record_is_not_given_up_for_a_damaged_one(store: Store) -> None:
    record = make_record()
    store.records.write(record)
    overwrite(store.records.path(record.run_id), b"")
    with pytest.raises(IntegrityError, match="empty"):
        store.records.write(record)


def test_the_names_by_run_are_made_again_from_the_days(store: Store) -> None:
    written = [make_record(batch_size=size) for size in (1, 2, 4)]
    for record in written:
        store.records.write(record)
    shutil.rmtree(store.root / "records/by-run")
    with pytest.raises(UnavailableError, match="by-run"):
        store.records.exists("new-g0-b1")
    with pytest.raises(UnavailableError, match="by-run"):
        store.records.write(make_record())
    with pytest.raises(UnavailableError, match="by-run"):
        store.check_writable()
    store.create()
    assert all(store.records.exists(record.run_id) for record in written)
    assert not store.records.write(written[0])
    store.records.path(written[1].run_id).unlink()
    assert [p.run_id for p in store.verify()] == [written[1].run_id]
    assert store.records.rebuild_by_run() == 1
    assert list(store.verify()) == []


REBUILD = "Store(Path(sys.argv[1])).create()\n"


def test_processes_that_mend_the_names_by_run_at_once_do_not_hinder_each_other(store: Store) -> None:
    for size in range(1, 41):
        store.records.write(make_record(batch_size=size))
    shutil.rmtree(store.root / "records/by-run")
    race(REBUILD, [[store.root]] * 4)
    assert list(store.verify()) == []
    assert list((store.root / "records/tmp").iterdir()) == []


def test_verify_finds_records_out_of_place(store: Store) -> None:
    record, twice, renamed = (make_record(batch_size=size) for size in (1, 2, 4))
    for each in (record, twice, renamed):
        store.records.write(each)
    wrong_day = store.root / "records/2026/04/01" / day_file(store, record).name
    wrong_day.parent.mkdir(parents=True)
    day_file(store, record).rename(wrong_day)
    copied = wrong_day.parent / day_file(store, twice).name
    shutil.copy(day_file(store, twice), copied)
    other_name = day_file(store, renamed).with_name("other.json")
    day_file(store, renamed).rename(other_name)
    stray = store.root / "records/2026/03/notes.txt"
    stray.write_text("hello")
    found = {p.path: p.message for p in store.verify()}
    assert "wrong day" in found.pop(wrong_day)
    assert "another record" in found.pop(copied)
    assert "another run's name" in found.pop(other_name)
    assert "no record can have" in found.pop(stray)
    assert found == {}


def test_a_missing_root_is_not_made_by_a_write(tmp_path: Path) -> None:
    store = Store(tmp_path / "mount")
    for use in (
        lambda: store.records.write(make_record()),
        lambda: list(store.records.iterate()),
        lambda: store.records.exists("a"),
        lambda: store.sweeps.write("a", {}),
        lambda: store.sweeps.list(),
        lambda: store.index.refresh(),
        store.check_writable,
    ):
        with pytest.raises(UnavailableError) as caught:
            use()
        assert caught.value.hint
        assert str(tmp_path / "mount") in caught.value.message
    assert list(tmp_path.iterdir()) == []


FULL = """
import resource, sys
from pathlib import Path
from farm.errors import UnavailableError
from farm.store import Store
from tests.factories import make_record
store = Store(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for use in (lambda: store.records.write(make_record()), lambda: store.sweeps.write("s", {"x": "y" * 5000})):
    try:
        use()
    except UnavailableError as error:
        print(error.hint)
"""


def test_a_full_disk_leaves_no_half_record(store: Store) -> None:
    done = run_python(FULL, store.root)
    assert done.returncode == 0, done.stderr
    assert [line[:15] for line in done.stdout.splitlines()] == ["Free some space"] * 2
    assert not store.records.exists(make_record().run_id)
    assert store.sweeps.ids() == []
    assert list(store.verify()) == []
    assert list((store.root / "records/tmp").iterdir()) == []
    assert store.records.write(make_record())
