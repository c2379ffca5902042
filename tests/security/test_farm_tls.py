# SPDX-License-Identifier: Apache-2.0
"""A farm whose parts each have a user of their own, over TLS, as docs/security.md sets it up; and what it writes."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from farm.broker.connection import connect
from farm.broker.register import Register
from farm.contract.outcome import Outcome
from farm.contract.record import Record
from farm.settings import Settings
from farm.store import Store
from tests.e2e.conftest import wait_for
from tests.security.tls_server import TlsServer, running

SWEEP = """
name: private
protocol: {base: quick, warmup_min_iterations: 1, warmup_min_s: 0.0, min_iterations: 10, min_s: 0.0}
models: [resnet18]
workflows: [{name: fake}]
precisions: [fp32]
batch: [1]
"""
FARM = [sys.executable, "-m", "farm.cli.main"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    directory = tmp_path_factory.mktemp("tls")
    base = Settings(home=directory / "home", lock_dir=directory / "locks", lease_s=30, idle_wait_s=0, suspect_retries=0)
    with running(directory, base) as server:
        yield server


@contextmanager
def part(server: TlsServer, role: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A part of the farm in a process of its own, with its own user."""
    with (server.directory / f"{words[0]}.log").open("ab") as log:
        command = [*FARM, *words]
        process = subprocess.Popen(command, env=server.environment(role), stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=120)


def command(server: TlsServer, role: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*FARM, *words], env=server.environment(role), capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def farm(server: TlsServer) -> Iterator[TlsServer]:
    """A scheduler, a worker and Flower at work. When they have stopped, the server has refused them nothing."""
    Store(server.base.store_dir).create()
    flower = ("flower", "--port", str(_free_port()))
    with part(server, "scheduler", "scheduler"), part(server, "worker", "worker"), part(server, "flower", *flower):
        register = Register(connect(server.settings("reader")))
        wait_for(lambda: any(entry.online for entry in register.devices()), "the worker")
        log = server.directory / "flower.log"
        wait_for(lambda: "Connected to" in log.read_text(), "Flower")
        yield server
    assert server.refusals() == []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_job_runs_to_its_end_with_a_user_for_each_part(farm: TlsServer, tmp_path: Path) -> None:
    sweep = tmp_path / "private.yaml"
    sweep.write_text(SWEEP)
    done = command(farm, "submitter", "submit", str(sweep), "--watch")
    assert done.returncode == 0, done.stdout + done.stderr
    records = list(Store(farm.base.store_dir).records.iterate())
    private = [r for r in records if isinstance(r, Record) and r.job.sweep_name == "private"]
    assert [record.outcome for record in private] == [Outcome.OK]
    shown = command(farm, "reader", "status", "private")
    assert shown.returncode == 0, shown.stderr
    assert "done" in shown.stdout
    assert farm.refusals() == []


def test_a_night_runs_with_a_user_of_its_own(farm: TlsServer, tmp_path: Path) -> None:
    """One at once, then one that beat begins: the commands of both are all that the nightly's user sends."""
    (tmp_path / "nightly.yaml").write_text(SWEEP.replace("private", "nightly"))
    config = tmp_path / "farm.toml"
    before = datetime.now(UTC) - timedelta(minutes=1)
    keys = [f'at = "{before:%H:%M}"', 'report_dir = "reports"', "canary_limit_min = 0.05"]
    config.write_text("\n".join(["[nightly]", *keys, "[[nightly.sweeps]]", 'path = "nightly.yaml"', ""]))
    nights = Store(farm.base.store_dir).nights
    environment = farm.environment("nightly") | {"FARM_CONFIG": str(config)}
    with (tmp_path / "nightly.log").open("wb") as log:
        served = subprocess.Popen([*FARM, "nightly", "run", "--serve"], env=environment, stdout=log, stderr=log)
    try:
        ended = wait_for(
            lambda: served.poll() is not None or any(made["run"].get("ended_at") for made in nights.list()), "it", 150
        )
        assert ended, (tmp_path / "nightly.log").read_text()
    finally:
        served.terminate()
        served.wait(timeout=120)
    (document,) = nights.list()
    assert [row["name"] for row in document["run"]["sweeps"]] == ["nightly"]
    assert document["run"]["outcomes"] == {"ok": 1}
    steps = document["run"]["steps"]
    assert [name for name, facts in steps.items() if "problem" in facts and not name.startswith("canaries")] == []
    # Asked for, and not waited for: a canary is half a minute's work.
    assert steps["canaries_first"]["devices"] == steps["canaries_last"]["devices"] != []
    assert farm.refusals() == []


def test_worker_and_reader_cannot_submit_and_the_error_says_why(farm: TlsServer, tmp_path: Path) -> None:
    sweep = tmp_path / "other.yaml"
    sweep.write_text(SWEEP.replace("private", "other"))
    for role in ("worker", "reader"):
        done = command(farm, role, "submit", str(sweep))
        assert done.returncode == 3
        assert "does not let this user do that" in done.stderr
        assert "docs/security.md" in done.stderr
        assert "Traceback" not in done.stderr
    assert "other" not in command(farm, "reader", "status").stdout
    connect(farm.settings("admin")).acl_log_reset()


def test_the_numbers_for_prometheus_are_a_readers_to_see(farm: TlsServer) -> None:
    done = command(farm, "reader", "metrics", "show")
    assert done.returncode == 0, done.stderr
    assert "inferfarm_broker_up 1.0" in done.stdout
    assert "inferfarm_scheduler_up 1.0" in done.stdout
    assert 'inferfarm_known_runs{outcome="ok"}' in done.stdout
    assert farm.refusals() == []


def test_the_doctor_works_as_a_reader_and_shows_no_secret(farm: TlsServer) -> None:
    done = command(farm, "reader", "doctor")
    password = (farm.directory / "passwords/reader.password").read_text().strip()
    assert "rediss://reader:***@127.0.0.1" in done.stdout
    assert password not in done.stdout + done.stderr
