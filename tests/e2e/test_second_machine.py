# SPDX-License-Identifier: Apache-2.0
"""A second machine, as the README adds one: another host name, another home, the first one's broker and store."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.api import Farm
from farm.broker.connection import broker_url
from farm.contract.record import Record
from farm.local import LocalFarm
from farm.settings import Settings
from tests.e2e.conftest import wait_for

UNSHARE = ["unshare", "--uts", "sh", "-c", 'hostname second && exec "$@"', "sh"]


def _other_host_names() -> bool:
    if shutil.which("unshare") is None:
        return False
    done = subprocess.run([*UNSHARE, "true"], capture_output=True, timeout=120)
    return done.returncode == 0


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    quiet = {"idle_wait_s": 0, "suspect_retries": 0}
    settings = Settings(home=tmp_path / "first", lock_dir=tmp_path / "locks", lease_s=30, **quiet)
    with LocalFarm(settings, listen="0.0.0.0"):
        yield Farm(settings)


@pytest.mark.skipif(not _other_host_names(), reason="needs root and unshare, to give a process another host name")
def test_a_worker_elsewhere_takes_its_share_and_its_records_come_to_the_same_store(farm: Farm, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FARM_")}
    environment |= {
        "FARM_BROKER_URL": f"redis://127.0.0.1:{broker_url(farm.settings).rsplit(':', 1)[1]}",
        "FARM_BROKER_PASSWORD_FILE": str(farm.settings.home / "broker/password"),
        "FARM_STORE": str(farm.settings.store_dir),
        "FARM_HOME": str(tmp_path / "second"),
        "FARM_LOCK_DIR": str(tmp_path / "second-locks"),
        "FARM_IDLE_WAIT_S": "0",
        "FARM_SUSPECT_RETRIES": "0",
    }
    with (tmp_path / "worker.log").open("wb") as log:
        command = [*UNSHARE, sys.executable, "-m", "farm.cli.main", "worker"]
        worker = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_for(lambda: {"second-cpu"} < {e.device_id for e in farm.devices() if e.online}, "the second device")
        path = tmp_path / "shared.yaml"
        path.write_text(
            "name: shared\nprotocol: {base: quick, warmup_min_s: 0.0, min_s: 0.0}\nmodels: [resnet18, resnet34]\n"
            "workflows: [{name: fake, latency_ms: 30}]\nprecisions: [fp32, fp16]\nbatch: [1]\n"
        )
        submission = farm.submit(path)
        for _ in farm.watch(submission.sweep_id, limit_s=240):
            pass
        records = [record for record in farm.records(submission.sweep_id) if isinstance(record, Record)]
        assert len(records) == 4
        assert {record.device.host for record in records if record.device} >= {"second"}
        assert len({record.device.device_id for record in records if record.device}) == 2
    finally:
        worker.terminate()
        assert worker.wait(timeout=120) == 0
    wait_for(lambda: not next(e for e in farm.devices() if e.device_id == "second-cpu").online, "the device to leave")
