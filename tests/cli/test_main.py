# SPDX-License-Identifier: Apache-2.0
"""The command line as a person meets it: help, mistakes, exit codes. Each call is a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from farm.broker.jobs import JobStore
from farm.broker.register import Register
from farm.cli.main import COMMANDS
from farm.settings import Settings
from farm.store import Store
from scheduler.submit import submit
from tests.scheduler.conftest import announcement, make_spec

GOOD = """
name: tiny
protocol: quick
models: [resnet18]
workflows: [fake]
precisions: [fp32]
batch: [1]
"""


def farm(*args: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FARM_")}
    return subprocess.run(
        [sys.executable, "-m", "farm.cli.main", "--home", str(home), *args],
        capture_output=True,
        text=True,
        timeout=120,
        env=kept | {"FARM_LOCK_DIR": str(home / "locks")} | environment,
    )


def test_help_lists_every_command(tmp_path: Path) -> None:
    done = farm("--help", home=tmp_path)
    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(name: str, tmp_path: Path) -> None:
    done = farm(name, "--help", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: farm " + name)
    assert len(done.stdout.splitlines()) > 4


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom farm.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'celery','redis','pydantic','duckdb','altair','torch','numpy','rich'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_an_unknown_command_gets_the_nearest_one(tmp_path: Path) -> None:
    done = farm("reslts", home=tmp_path)
    assert done.returncode == 2
    assert "did you mean `farm results`?" in done.stderr


def test_five_mistakes_get_five_errors_and_exit_2(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        "name: tiny\nprotocol: quik\nmodels: [resnet19]\nworkflows: [pytorhc]\nprecisions: [fp33]\nbatch: 0\n"
    )
    done = farm("submit", str(sweep), "--dry-run", home=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n  - ") == 5, done.stderr
    for path in ("$.protocol", "$.models[0]", "$.workflows[0]", "$.precisions[0]", "$.batch"):
        assert path in done.stderr
    for near in ("quick", "resnet18", "pytorch", "fp32"):
        assert near in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["status", "devices", "devices canary"])
def test_no_broker_is_one_clear_message_and_exit_3(command: str, tmp_path: Path) -> None:
    done = farm(*command.split(), home=tmp_path)
    assert done.returncode == 3
    assert "no broker" in done.stderr
    assert "farm up" in done.stderr
    assert "Traceback" not in done.stderr


def test_submitting_without_a_broker_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(GOOD)
    done = farm("submit", str(tmp_path / "sweep.yaml"), home=tmp_path / "home")
    assert done.returncode == 3
    assert "no broker" in done.stderr
    assert not list((tmp_path / "home").rglob("*.json"))


def test_a_broker_that_is_away_is_named_without_its_password(tmp_path: Path) -> None:
    done = farm("status", home=tmp_path, FARM_BROKER_URL="redis://:secret1@127.0.0.1:1/0")
    assert done.returncode == 3
    assert "127.0.0.1:1" in done.stderr
    assert "secret1" not in done.stderr


def test_a_store_that_cannot_be_written_is_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "sweep.yaml").write_text(GOOD)
    done = farm("--store", str(tmp_path / "file" / "store"), "run", str(tmp_path / "sweep.yaml"), home=tmp_path / "h")
    assert done.returncode == 3
    assert str(tmp_path / "file" / "store") in done.stderr
    assert "Traceback" not in done.stderr


def test_bad_settings_are_listed_together(tmp_path: Path) -> None:
    done = farm("doctor", home=tmp_path, FARM_LEASE_S="-1", FARM_WINDOW="none")
    assert done.returncode == 2
    assert "lease_s" in done.stderr
    assert "window" in done.stderr


def test_debug_shows_the_traceback_wherever_it_stands(tmp_path: Path) -> None:
    done = farm("status", "--debug", home=tmp_path)
    assert done.returncode == 3
    assert "Traceback" in done.stderr


def test_results_where_nothing_was_measured_say_so(tmp_path: Path) -> None:
    done = farm("results", home=tmp_path)
    assert done.returncode == 3
    assert f"there is no store at {tmp_path / 'store'}" in done.stderr


def test_results_leave_nothing_on_standard_error(tmp_path: Path) -> None:
    Store(tmp_path / "store").create()
    done = farm("results", "--where", "latency_ms < 1", "--format", "csv", home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("run_id,")


def test_parquet_needs_a_file(tmp_path: Path) -> None:
    done = farm("results", "--format", "parquet", home=tmp_path)
    assert done.returncode == 2
    assert "-o results.parquet" in done.stderr


def test_an_artifact_digest_is_checked_before_it_touches_a_path(tmp_path: Path) -> None:
    done = farm("artifacts", "get", "../../etc/passwd", "-o", str(tmp_path / "x"), home=tmp_path)
    assert done.returncode == 2
    assert "not a SHA-256" in done.stderr


@pytest.mark.usefixtures("broker")
def test_a_device_in_maintenance_says_who_and_why_and_so_do_the_jobs_that_wait_for_it(
    tmp_path: Path, settings: Settings, client: redis.Redis
) -> None:
    register, store = Register(client), Store(settings.store_dir)
    register.announce(announcement("d"))
    store.create()
    home = settings.home
    wrong = farm("devices", "maintenance", "d", "--for", "2h", "--until", "14:00", "--reason", "fan", home=home)
    assert (wrong.returncode, "both say when it ends" in wrong.stderr) == (2, True)
    done = farm("devices", "maintenance", "d", "--for", "2h", "--reason", "new fan", home=home)
    assert done.returncode == 0, done.stderr
    submit(make_spec(devices="[{id: d}]"), store=store, jobs=JobStore(client), register=register)
    listed = farm("devices", home=home).stdout
    assert "maintenance" in listed
    assert ": new fan" in listed
    told = json.loads(farm("devices", "--format", "json", home=home).stdout)[0]
    assert (told["state"], told["reason"], told["until_s"] - told["since_s"]) == (
        "maintenance", "new fan", pytest.approx(7200, abs=1),
    )  # fmt: skip
    assert "1 job waits: d is in maintenance until " in farm("status", "tiny", home=home).stdout
    assert "1 job waits for dev:d: d is in maintenance until " in farm("status", home=home).stdout
    assert farm("devices", "resume", "d", home=home).returncode == 0
    assert "wait" not in farm("status", "tiny", home=home).stdout
