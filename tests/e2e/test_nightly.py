# SPDX-License-Identifier: Apache-2.0
"""A real night: broker, scheduler, worker, the fake workflow; killed in the middle; two at once; beat that runs one."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from farm.api import Farm
from farm.contract.record import Record
from farm.local import LocalFarm
from farm.settings import Settings
from scheduler.nightly.due import night_name
from tests.e2e.conftest import wait_for
from tests.e2e.test_canary import QUIET

STARTED: list[subprocess.Popen[str]] = []
FARM = [sys.executable, "-m", "farm.cli.main"]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """A farm whose runs are valid whatever else this machine does: only valid ones make series."""
    base = tmp_path_factory.mktemp("farm")
    settings = Settings(
        home=base / "home", lock_dir=base / "locks", lease_s=30, idle_wait_s=0, suspect_retries=0,
        thresholds={"all": QUIET},
    )  # fmt: skip
    with LocalFarm(settings):
        yield Farm(settings)


class Hook:
    """A webhook: every message that was posted to it."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_words: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook-with-a-secret"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def config(local: Farm, tmp_path: Path, hook: Hook) -> Callable[..., Path]:
    """Write the settings of a nightly on the running farm; the nights of other tests are not its own."""
    for name in local.store.nights.names():
        local.store.nights.path(name).unlink()

    def write(*sweeps: Path, at: str = "00:00", **keys: object) -> Path:
        lines = [f'home = "{local.settings.home}"', f'store = "{local.settings.store_dir}"', "lease_s = 30"]
        lines += ["[nightly]", f'at = "{at}"', 'report_dir = "reports"', "canary_limit_min = 0"]
        lines += [f"{key} = {value}" for key, value in keys.items()]
        lines += ["[nightly.notify]", f'webhooks = ["{hook.url}"]', 'file = "told.jsonl"']
        for sweep in sweeps:
            lines += ["[[nightly.sweeps]]", f'path = "{sweep}"']
        path = tmp_path / "farm.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@pytest.fixture(autouse=True)
def _left_over() -> Iterator[None]:
    """A test that failed leaves no process behind."""
    yield
    for process in STARTED:
        if process.poll() is None:
            process.kill()
            process.communicate()
    STARTED.clear()


def start(config: Path, *words: str) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FARM_")}
    process = subprocess.Popen(
        [*FARM, "nightly", *words], env=environment | {"FARM_CONFIG": str(config)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    STARTED.append(process)
    return process


def done(config: Path, *words: str) -> tuple[int, str]:
    process = start(config, *words)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def _ended(farm: Farm, name: str) -> bool:
    return farm.store.nights.exists(name) and "ended_at" in farm.store.nights.read(name)["run"]


def tonights(farm: Farm) -> list[Record]:
    (name,) = farm.store.nights.names()
    found = farm.records(*farm.store.nights.read(name)["sweeps"])
    return [record for record in found if isinstance(record, Record)]


def test_a_night_is_killed_goes_on_and_measures_nothing_twice(
    local: Farm, config: Callable[..., Path], sweep: Callable[..., Path], tmp_path: Path, hook: Hook
) -> None:
    night = config(sweep("long", batch="1, 2", latency_ms=200), sweep("bad", batch="1", behaviour="raise"))
    process = start(night, "run", "--now")
    (name,) = wait_for(local.store.nights.names, "the night's document")  # type: ignore[misc]
    wait_for(lambda: local.store.nights.read(name)["run"]["state"] == "wait", "the sweeps at work")
    second = done(night, "run", "--now")
    assert second[0] == 3
    assert "another process runs the nightly for this farm" in second[1]
    process.send_signal(signal.SIGKILL)
    process.communicate()

    code, output = done(night, "status")
    assert code == 0
    assert "now:    wait, 2 of 9 steps done, stopped: `farm nightly run` goes on" in output
    code, output = done(night, "run")
    assert f"night {name}: " in output, output
    records = tonights(local)
    assert sorted((r.job.sweep_name, r.batch_size) for r in records) == [("bad", 1), ("long", 1), ("long", 2)]
    assert all(r.job.generation == 0 for r in records)
    run = local.store.nights.read(name)["run"]
    assert run["attempts"] == 2
    assert len(run["sweeps"]) == 2

    page = (tmp_path / "reports" / name / "index.html").read_text()
    assert "What ran and what did not" in page
    index = (tmp_path / "reports/index.html").read_text()
    assert f'href="{name}/index.html"' in index
    pages = list((tmp_path / "reports/series").glob("*/index.html"))
    assert len(pages) == len([r for r in records if r.outcome == "ok"])
    (message,) = [m for m in hook.messages if m["night"] == name]
    assert message["kind"] == "inferfarm.night"
    assert "bad: some runs" in message["text"]
    assert message == json.loads((tmp_path / "told.jsonl").read_text())
    assert "hook-with-a-secret" not in json.dumps(run) + output
    assert done(night, "run") == (0, output_of_nothing(local))


def output_of_nothing(_farm: Farm) -> str:
    following = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
    return f"Nothing is due. The next night is at {following}T00:00+00:00.\n"


def test_beat_runs_a_night_at_its_time_and_a_second_one_is_refused(
    local: Farm, config: Callable[..., Path], sweep: Callable[..., Path]
) -> None:
    before = datetime.now(UTC) - timedelta(minutes=1)
    # Due a minute ago: the first look, at the start, begins it.
    night = config(sweep("beaten", batch="1"), at=f"{before:%H:%M}")
    served = start(night, "run", "--serve")
    try:
        name = night_name(before)
        wait_for(lambda: _ended(local, name), "the night")
        code, output = done(night, "run", "--serve")
        assert code == 3
        assert "another `farm nightly run --serve` is at work" in output
        told = json.loads(done(night, "status", "--json")[1])
        assert told["serving"] == f"process {served.pid} on {os.uname().nodename}"
        assert [line["night"] for line in told["nights"]] == [name]
    finally:
        served.send_signal(signal.SIGTERM)
        output, _ = served.communicate(timeout=120)
    assert served.returncode == 0, output
    assert len(tonights(local)) == 1
