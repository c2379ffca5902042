# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 - sound inputs, as they are written
"""What reads from outside: for each, sound inputs and a reader that ends in a value or in its one kind of error."""

from __future__ import annotations

import array
import asyncio
import base64
import hashlib
import json
import logging
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from tornado.iostream import IOStream, StreamClosedError

import farm
from farm.broker.connection import broker_url
from farm.broker.content import Packer, Reader, refs_of
from farm.broker.register import _entry
from farm.broker.transport import checked
from farm.broker.views import readable
from farm.cli.local import running_farm
from farm.contract.codec import from_json, to_json
from farm.contract.device import Announcement
from farm.contract.names import check_name
from farm.contract.outcome import Outcome
from farm.contract.record import Record
from farm.contract.run import STAGES, Event, RunResult
from farm.errors import FarmError, UnavailableError, UsageError
from farm.paths import inside
from farm.settings import Settings, load_settings
from farm.store import Store
from farm.store.columns import row_of
from farm.store.records import load_record
from farm.store.schema import encode_record
from farm.store_service.desk import Desk
from farm.store_service.server import make_server
from farm.sweep import SweepSpec, load_sweep, parse_sweep
from scheduler.canary import due
from scheduler.maintenance import is_over
from scheduler.reconcile import awaits_logs, outstanding, owed_records, stored_logs
from scheduler.records import utc_now
from tests.factories import DEVICE, STACK, make_job, make_record, make_ref
from tests.workers.support import make_control
from workers.daemon.collect import _Keeper
from workers.daemon.control import EventFollower, read_result
from workers.daemon.launch import Launched
from workers.daemon.spool import Spool
from workers.daemon.stages import StageClock

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Target:
    """`read(data, place)` has the directory `place` to itself. It may raise `errors` and nothing else."""

    name: str
    seeds: list[bytes]
    read: Callable[[bytes, Path], object]
    errors: tuple[type[Exception], ...] = ()
    #: Paths below `place` that it may change; everything else must stay as it was.
    writes: tuple[str, ...] = ()
    #: How many times as long as most an input takes: it gets that many fewer.
    cost: int = 1


def as_json(value: Any) -> bytes:
    return json.dumps(to_json(value)).encode()


def sweep_file(data: bytes, place: Path) -> None:
    (place / "sweep.yaml").write_bytes(data)
    spec = load_sweep(place / "sweep.yaml")
    assert SweepSpec.from_document(json.loads(json.dumps(spec.document()))).sweep_id == spec.sweep_id


def message(data: bytes, place: Path) -> None:
    """As the transport does it: these errors are caught there, and the message is dropped."""
    made = checked(loads(bytes_to_str(data)))
    ((job_id,), keywords, embedded) = json.loads(base64.b64decode(made["body"]))
    assert (keywords, embedded) == ({}, {})
    check_name(job_id, "job id")


def job_in_redis(data: bytes, place: Path) -> None:
    text = data.decode("utf-8", "surrogateescape")
    state = {
        "name": "n",
        "sweep": "s",
        "state": "queued",
        "target": "dev:d",
        "attempt": "0",
        "predicted": "1",
        "order": "0",
    }
    readable("sweep-1-0123456789abcdef", state, text, {"s": 5}, Reader())
    assert Reader().read("sweep-1-0123456789abcdef", text).job_id == "sweep-1-0123456789abcdef"


def packed_job_in_redis(data: bytes, place: Path) -> None:
    """What is kept of a waiting job: its own text, then a line for each part, the first under the first name."""
    text, *parts = data.decode("utf-8", "surrogateescape").split("\n")
    reader = Reader()
    reader.parts |= dict(zip(refs_of(PACKED.texts[0]), parts, strict=False))
    assert reader.read(JOB.job_id, text).job_id == JOB.job_id


def state_in_redis(data: bytes, place: Path) -> None:
    try:
        state = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(state, dict):
        spec = json.dumps(to_json(make_job()))
        readable(make_job().job_id, {str(k): str(v) for k, v in state.items()}, spec, {"s": 5}, Reader())


def lost_logs(data: bytes, place: Path) -> None:
    """What a worker says that a lost attempt left: it becomes references in the record, or nothing."""
    state = {
        "name": "n", "sweep": "s", "state": "quarantined", "target": "dev:d", "attempt": "1", "predicted": "1", "order": "0",
        "logs": data.decode("utf-8", "surrogateescape"),
        "lost": data.decode("utf-8", "surrogateescape"),
    }  # fmt: skip
    view = readable(make_job().job_id, state, json.dumps(to_json(make_job())), {"s": 5}, Reader())
    if view is not None:
        awaits_logs(view, 0.0)
        encode_record(owed_records(view, utc_now(), stored_logs(view, Store(place / "store")))[0])


def announcement(data: bytes, place: Path) -> None:
    hashed = {"announcement": data.decode("utf-8", "surrogateescape"), "seen": "1"}
    entry = _entry(DEVICE.device_id, hashed, 1.0)
    assert entry is None or entry.device_id == DEVICE.device_id


def device_state(data: bytes, place: Path) -> None:
    """A device's whole entry, which its worker can write: it is read, or it is passed over."""
    try:
        state = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(state, dict):
        sound = {"announcement": as_json(Announcement(DEVICE, [STACK], "0.1.0", 1)).decode(), "seen": "1"}
        for hashed in (state, sound | state):
            entry = _entry(DEVICE.device_id, {str(k): str(v) for k, v in hashed.items()}, 1.0)
            if entry is not None:
                assert entry.standing
                is_over(entry, 1.0)
                due(entry, 1.0, automatic=True, every_s=1.0)


def record(data: bytes, place: Path) -> None:
    """In a store: everything that reads records passes over it, or has a value for it."""
    found = load_record(place / f"{make_record().run_id}.json", data)
    if isinstance(found, Record):
        encode_record(found)
        row_of(found)
    store = Store(place / "store")
    target = store.records.path(make_record().run_id)
    day = store.records.day_path(make_record())
    for path in (target, day):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)
    list(store.verify())
    store.artifacts()
    store.records.read(make_record().run_id)


def sweep_document(data: bytes, place: Path) -> None:
    store = Store(place / "store")
    (place / "store/sweeps/sweep-1.json").write_bytes(data)
    list(outstanding(store))
    SweepSpec.from_document(store.sweeps.read("sweep-1"))


def kept_document(area: str, name: str) -> Callable[[bytes, Path], None]:
    """A night or a decision: whatever it holds, the store's own commands say so and go on."""

    def read(data: bytes, place: Path) -> None:
        store = Store(place / "store")
        path = place / "store" / area / f"{name}.json"
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        documents = {"nights": store.nights, "decisions": store.decisions}[area]
        whole = documents.list()
        assert bool(whole) != any(problem.area == area for problem in store.verify())
        store.collect_garbage(dry_run=True, despite_damage=True)
        assert documents.read(name) == whole[0]
        documents.write(name, whole[0])
        assert documents.read(name) == whole[0]

    return read


def result(data: bytes, place: Path) -> None:
    control = make_control(place)
    (control.path / "samples/latency.i64").write_bytes(array.array("q", [5, 6, 7]).tobytes())
    (control.path / "artifacts/a").write_bytes(b"a")
    control.result.write_bytes(data)
    read = read_result(control, measured=True)
    assert (read.result is None) or (read.fault is None)
    if read.result is not None:
        keeper = _Keeper(place / "cache", lambda _sha256: False)
        keeper.artifacts(control, read.result.artifacts)
        assert all(file.path.is_relative_to(control.path.resolve()) for file in keeper.files)


def events(data: bytes, place: Path) -> None:
    (place / "events.jsonl").write_bytes(data)
    follower, clock = EventFollower(place / "events.jsonl"), StageClock({}, 0)
    while found := follower.read():
        for event in found:
            clock.see(event, 10**12)
            clock.overdue(10**12)
    assert clock.stage in STAGES
    clock.stages(10**12)


def exit_report(data: bytes, place: Path) -> None:
    (place / "exit.json").write_bytes(data)
    plan = SimpleNamespace(control=SimpleNamespace(exit=place / "exit.json"))
    Launched._report(cast(Any, SimpleNamespace(_plan=plan)))


def artifact_name(data: bytes, place: Path) -> None:
    found = inside(os.fsdecode(data), place / "control", place / "cache", what="artifact")
    assert found.is_relative_to(place.resolve())


def name(data: bytes, place: Path) -> None:
    text = os.fsdecode(data)
    assert (place / check_name(text, "name")).parent == place
    store = Store(place / "store")
    assert store.sweeps.path(text).parent == place / "store/sweeps"


def store_marker(data: bytes, place: Path) -> None:
    (place / "store/store.json").write_bytes(data)
    Store(place / "store").create()
    Store(place / "store").check_writable()


def blob(data: bytes, place: Path) -> None:
    store = Store(place / "store")
    path = store.blobs.path(store.blobs.put_bytes(b"the blob").sha256)
    path.chmod(0o644)
    path.write_bytes(data)
    problems = list(store.blobs.verify())
    assert bool(problems) == (data != b"the blob")
    assert store.blobs.read(path.name) == b"the blob"


def index(data: bytes, place: Path) -> None:
    store = Store(place / "store")
    current = place / "store/index/current.json"
    current.unlink(missing_ok=True)
    current.write_bytes(data)
    store.index.query()
    store.index.refresh()


def index_part(data: bytes, place: Path) -> None:
    store = Store(place / "store")
    store.index.refresh()
    for part in (place / "store/index").glob("part-*.parquet"):
        part.chmod(0o644)
        part.write_bytes(data)
    store.index.refresh()
    store.index.query()


def spooled(data: bytes, place: Path) -> None:
    spool = Spool(place / "spool")
    spool.put(make_record(), [])
    entry = spool.entries()[0]
    (entry / "record.json").chmod(0o644)
    (entry / "record.json").write_bytes(data)
    spool.waiting(make_record().run_id)
    spool.flush(Store(place / "store"))


def broker_file(data: bytes, place: Path) -> None:
    settings = Settings(home=place)
    settings.run_dir.mkdir(exist_ok=True)
    (place / "password").write_text("0123456789abcdef")
    for file in ("broker.json", "up.json"):
        (settings.run_dir / file).write_bytes(data.replace(b"@", os.fsencode(place)))
    running_farm(settings)
    broker_url(settings)


def store_request(data: bytes, place: Path) -> None:
    """A connection that sends this and ends: there is an answer or none, no traceback, and memory for neither."""
    faults: list[str] = []
    heard = logging.Handler(logging.ERROR)
    heard.emit = lambda told: faults.append(told.getMessage())  # type: ignore[method-assign]
    heard.addFilter(lambda told: "Uncaught exception" in told.getMessage() or told.exc_info is not None)
    settings = Settings(home=place / "home", store=place / "store", lock_dir=place / "locks")
    desk = Desk(settings)
    desk.access.grant("fuzz", secret="fuzz:" + "s" * 40)

    async def talk() -> bytes:
        ours, theirs = socket.socketpair()
        server = make_server(settings, desk)
        server.handle_stream(IOStream(theirs), ("127.0.0.1", 1))
        stream = IOStream(ours)
        await stream.write(data)
        try:
            # To half a request there is no answer: then the line is cut.
            return bytes(await asyncio.wait_for(stream.read_bytes(1 << 16, partial=True), 0.1))
        except (TimeoutError, StreamClosedError):
            return b""
        finally:
            stream.close()
            await server.close_all_connections()

    logging.getLogger("tornado").addHandler(heard)
    try:
        # In a thread of its own: another test's browser may have left this one a loop.
        with ThreadPoolExecutor(1) as thread:
            answer = thread.submit(lambda: asyncio.run(talk())).result()
    finally:
        logging.getLogger("tornado").removeHandler(heard)
    assert not faults, faults
    assert not answer or answer.startswith(b"HTTP/1.1 "), answer[:200]
    assert b"HTTP/1.1 500" not in answer
    assert data not in REQUESTS or answer, "no answer to a sound request"


def settings_file(data: bytes, place: Path) -> None:
    (place / "farm.toml").write_bytes(data)
    os.environ["FARM_CONFIG"] = str(place / "farm.toml")
    try:
        load_settings()
    finally:
        del os.environ["FARM_CONFIG"]


SWEEPS = [path.read_bytes() for path in sorted((ROOT / "examples").glob("*.yaml"))]
BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nname: [*c,*c,*c,*c]\n"
JOB = make_job()
PACKED = Packer().pack([JOB])
PACKED_JOB = "\n".join([PACKED.texts[0], *(PACKED.parts[ref] for ref in refs_of(PACKED.texts[0]))]).encode()
RECORDS = [
    make_record(),
    make_record(outcome=Outcome.FAILED),
    make_record(samples=[make_ref("ab" * 32)], artifacts=[make_ref("cd" * 32, kind="onnx")]),
]
MESSAGE = {
    "body": "W1siam9iLTEiXSwge30sIHsiY2FsbGJhY2tzIjogbnVsbH1d",
    "content-encoding": "utf-8",
    "content-type": "application/json",
    "headers": {"lang": "py", "task": "workers.run_job", "id": "i", "shadow": "s", "eta": None, "timelimit": [None, None]},
    "properties": {
        "correlation_id": "i", "delivery_mode": 2, "delivery_tag": "t", "body_encoding": "base64",
        "delivery_info": {"exchange": "", "routing_key": "dev.x"},
    },
}  # fmt: skip
RESULT = {
    "run_id": "r",
    "outcome": "ok",
    "samples": [{"name": "latency", "path": "samples/latency.i64", "count": 3}],
    "artifacts": [{"kind": "onnx", "path": "artifacts/a", "sha256": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb", "size_bytes": 1}],
    "stages": [{"name": "measure", "start_ns": 1, "end_ns": 2}],
    "metrics": {"load_ms": 1.5},
    "mismatch": [to_json(each) for each in make_record().mismatch],
}  # fmt: skip
EVENTS = b"".join(
    as_json(from_json(Event, fields)) + b"\n"
    for fields in (
        {"kind": "stage_start", "stage": "load_model", "monotonic_ns": 1},
        {"kind": "progress", "stage": "load_model", "monotonic_ns": 2, "fraction": 0.5},
        {"kind": "stage_end", "stage": "load_model", "monotonic_ns": 3},
        {"kind": "stage_start", "stage": "measure", "monotonic_ns": 4},
    )
)
STATE = {"name": "n", "sweep": "s", "state": "running", "target": "dev:d", "attempt": "1", "predicted": "1.5", "order": "0",
         "progress": "{}", "summary": '{"ok": 1}', "t_queued": "1700000000000", "reason": "r", "device": "d"}  # fmt: skip
EXIT = {"exit_code": 0, "signal": None, "reason": None, "error": None, "max_rss_bytes": 1, "user_s": 0.5, "system_s": 0.5,
        "killed_stragglers": 0, "started_ns": 1, "ended_ns": 2}  # fmt: skip
TOML = b'home = "/x"\nbroker_url = "rediss://h:1/0"\nlease_s = 30\n[stacks.a]\npython = "p"\nenv = { A = "b" }\n[thresholds.all]\nclock_drift = 0.05\n'
DEVICE_STATE = {"announcement": json.dumps(to_json(Announcement(DEVICE, [STACK], "0.1.0", 1))), "seen": "1000", "state": "maintenance",
                "state_at": "1000", "state_until": "1800000000.5", "state_by": "ann@lab1", "reason": "new fan", "back": "1",
                "canary_began": "5.5", "canary_number": "2", "canary_asked": "resumed"}  # fmt: skip
NIGHT = {"night": "2026-11-21", "state": "running", "sweeps": ["s-1"], "evidence": {"engine": "ab" * 32}, "at": 1.5}
DECISION = {
    "series": "0123456789abcdef",
    "accepted": True,
    "by": "ann",
    "reason": "new driver",
    "at": "2026-11-21T08:00:00+00:00",
}
LOGS = [
    {"kind": "log:attempt-1", "sha256": "ab" * 32, "size_bytes": 5},
    {"attempt": 1, "device": "d", "at": 1700000000000, "how": "lease ended"},
]
NAMES = [b"sweep-1", b"../x", b"artifacts/a", b"cache/b", b"a\x00b", b"/etc/passwd", "é/\uff4e".encode()]

HEAD = "Host: c\r\nAuthorization: Bearer fuzz:" + "s" * 40 + f"\r\nInferfarm-Version: {farm.__version__}\r\n"
BLOB = hashlib.sha256(b"the blob").hexdigest()
REQUESTS = [
    f"{line} HTTP/1.1\r\n{HEAD}{more}\r\n".encode() + body
    for line, more, body in (
        (f"PUT /v1/blobs/{BLOB}", "Upload-Offset: 0\r\nUpload-Length: 8\r\nContent-Length: 8\r\n", b"the blob"),
        (
            f"PUT /v1/blobs/{BLOB}",
            "Upload-Offset: 0\r\nUpload-Length: 8\r\nTransfer-Encoding: chunked\r\n",
            b"8\r\nthe blob\r\n0\r\n\r\n",
        ),
        (f"GET /v1/blobs/{BLOB}", "Range: bytes=2-\r\n", b""),
        (f"HEAD /v1/uploads/{BLOB}", "", b""),
        ("GET /v1/records/run-1", "", b""),
        ("POST /v1/join", "Content-Length: 34\r\n", b'{"invitation": "a", "secret": "b"}'),
        ("POST /v1/records", f"Content-Length: {len(encode_record(make_record()))}\r\n", encode_record(make_record())),
    )
]

TARGETS = [
    Target("sweep YAML", [*SWEEPS, BOMB], sweep_file, (UsageError,), ("sweep.yaml",)),
    Target("Celery message", [json.dumps(MESSAGE).encode()], message, (ValueError, TypeError, RecursionError)),
    Target("job in Redis", [as_json(JOB)], job_in_redis, (ValueError,)),
    Target("packed job in Redis", [PACKED_JOB], packed_job_in_redis, (ValueError,)),
    Target("job's state in Redis", [json.dumps(STATE).encode()], state_in_redis),
    Target("device in Redis", [as_json(Announcement(DEVICE, [STACK], "0.1.0", 1))], announcement),
    Target("device's state in Redis", [json.dumps(DEVICE_STATE).encode()], device_state),
    Target("record", [encode_record(each) for each in RECORDS], record, (FarmError,), ("store",)),
    Target(
        "stored sweep",
        [json.dumps(parse_sweep(SWEEPS[0].decode(), "s", directory=ROOT / "examples").document()).encode()],
        sweep_document, (FarmError,), ("store/sweeps",),
    ),
    Target("night", [json.dumps(NIGHT).encode()], kept_document("nights", "2026-11-21"), (FarmError,), ("store",)),
    Target("decision", [json.dumps(DECISION).encode()], kept_document("decisions", "d-1"), (FarmError,), ("store",)),
    Target("lost attempt's logs", [json.dumps(LOGS).encode()], lost_logs),
    Target("result.json", [json.dumps(RESULT).encode(), as_json(from_json(RunResult, RESULT))], result, (), ("work",)),
    Target("events.jsonl", [EVENTS], events, (), ("events.jsonl",)),
    Target("exit.json", [json.dumps(EXIT).encode()], exit_report, (), ("exit.json",)),
    Target("artifact name", NAMES, artifact_name, (ValueError,)),
    Target("name", NAMES, name, (ValueError,)),
    Target("store.json", [b'{"layout": 1}\n'], store_marker, (UnavailableError,), ("store",)),
    Target("blob", [b"the blob"], blob, (FarmError,), ("store/blobs",)),
    Target("index", [b'{"columns": "x", "parts": ["part-000000000000000000000000.parquet"]}'], index, (FarmError,), ("store/index",), cost=10),
    Target("index part", [b"PAR1"], index_part, (FarmError,), ("store/index",), cost=10),
    Target("spooled record", [encode_record(make_record())], spooled, (FarmError,), ("spool", "store")),
    Target("broker.json", [b'{"url": "redis://127.0.0.1:1/0", "password_file": "@/password", "pid": 1}'], broker_file,
           (FarmError,), ("run", "password")),
    Target("request to the store", REQUESTS, store_request, (), ("store", "home"), cost=5),
    Target("farm.toml", [TOML], settings_file, (UsageError,), ("farm.toml",)),
]  # fmt: skip
