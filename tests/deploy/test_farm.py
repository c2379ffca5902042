# SPDX-License-Identifier: Apache-2.0
"""A farm on three hosts, from bare Debian to its removal.

The tests go in this order: one lab is deployed, hurt, upgraded and removed.
"""

from __future__ import annotations

import time

import pytest

from tests.deploy.farm import DeployedFarm

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(900)]
HOSTS = {"fx-a", "fx-b", "fx-c"}
#: A run that takes about 25 s on the fake workflow.
LONG = {"latency_ms": 100, "iterations": 250}


def running(farm: DeployedFarm, name: str) -> bool:
    """Whether one of the sweep's jobs is being measured."""
    return "measure" in farm.farm(f"status {name}")


def ended(farm: DeployedFarm, name: str, count: int) -> bool:
    """Whether the sweep has so many records."""
    return len(farm.records(name)) >= count


def journal(farm: DeployedFarm, host: str, words: str = "") -> str:
    """What the host's worker said since it was started."""
    return farm.lab.ssh(host, f"journalctl -u 'farm-worker@*' --no-pager {words}")


def test_a_second_run_of_the_play_changes_nothing(farm: DeployedFarm) -> None:
    done = farm.play("site.yml")
    assert {host: row["changed"] for host, row in done.items() if host in HOSTS} == dict.fromkeys(HOSTS, 0)


def test_check_mode_finds_nothing_to_do(farm: DeployedFarm) -> None:
    done = farm.play("site.yml", "--check")
    assert {host: row["changed"] for host, row in done.items() if host in HOSTS} == dict.fromkeys(HOSTS, 0)


def test_every_unit_runs_and_none_failed(farm: DeployedFarm) -> None:
    units = ("redis", "scheduler", "nightly", "flower", "pages")
    farm.lab.ssh("a", "systemctl is-active " + " ".join(f"farm-{unit}" for unit in units))
    for name in ("a", "b", "c"):
        assert farm.lab.ssh(name, "systemctl --failed --no-legend") == ""


def test_passwords_and_keys_are_for_their_owners_only(farm: DeployedFarm) -> None:
    for name in ("a", "b", "c"):
        found = farm.lab.ssh(
            name, r"find /etc/inferfarm -type f \( -name '*.password' -o -name '*.key' \) -printf '%m %U %f\n'"
        )
        assert found.count("\n") >= 2
        assert {line.split()[0] for line in found.splitlines()} <= {"600", "640"}
        assert {line.split()[1] for line in found.splitlines()} == {"0"}


def test_no_password_is_in_the_plays_output(farm: DeployedFarm) -> None:
    farm.play("site.yml", "-vvv")
    passwords = farm.lab.ssh("a", "cat /etc/inferfarm/secrets/*.password").split()
    assert len(passwords) >= 7
    assert [p for p in passwords if p in farm.last] == []


def test_a_sweep_runs_on_both_workers_and_the_broker_refused_nothing(farm: DeployedFarm) -> None:
    farm.submit("both")
    farm.lab.wait(lambda: ended(farm, "both", 2), 120, "the records of both workers")
    records = farm.records("both")
    assert {(r["device_id"], r["outcome"]) for r in records} == {("fx-b-cpu", "ok"), ("fx-c-cpu", "ok")}
    assert farm.acl_log().strip() in ("", "(empty array)")


def test_clients_without_tls_certificate_password_or_right_are_refused(farm: DeployedFarm) -> None:
    ask = "redis-cli -h fx-a -p 6380 {} ping 2>&1"
    tls = "--tls --cacert /etc/inferfarm/pki/ca.crt"
    pair = "--cert /etc/inferfarm/pki/host.crt --key /etc/inferfarm/pki/host.key"
    assert "PONG" not in farm.lab.ssh("a", ask.format(""), check=False)
    assert "PONG" not in farm.lab.ssh("a", ask.format(tls), check=False)
    assert "NOAUTH" in farm.lab.ssh("a", ask.format(f"{tls} {pair}"), check=False)
    assert "PONG" in farm.redis("reader", "ping")
    assert "NOPERM" in farm.redis("reader", "lpush dev.fx-b-cpu x")
    assert "NOPERM" in farm.redis("worker-fx-b-cpu", "lpush dev.fx-c-cpu x")
    assert "NOPERM" in farm.redis("scheduler", "flushall")
    farm.redis("admin", "ACL LOG RESET")


@pytest.mark.parametrize("cut_s", [30, 90])
def test_a_job_that_ends_while_the_cable_is_out_is_recorded_once(farm: DeployedFarm, cut_s: int) -> None:
    name = f"cable{cut_s}"
    farm.submit(name, devices="{id: fx-b-cpu}", latency_ms=100, iterations=120)
    farm.lab.wait(lambda: running(farm, name), 60, "the run to begin")
    farm.lab.unplug("b")
    try:
        time.sleep(cut_s)  # The time that the cable is out is what is tested.
    finally:
        farm.lab.plug("b")
    farm.lab.wait(lambda: ended(farm, name, 1), 240, "the record")
    # The worker goes on consuming.
    farm.submit(f"{name}-after", devices="{id: fx-b-cpu}")
    farm.lab.wait(lambda: ended(farm, f"{name}-after", 1), 120, "the next record")
    assert [r["outcome"] for r in farm.records(name)] == ["ok"]


def test_a_host_whose_power_is_cut_comes_back_and_its_job_is_done(farm: DeployedFarm) -> None:
    farm.submit("power", devices="{id: fx-c-cpu}", **LONG)
    farm.lab.wait(lambda: running(farm, "power"), 60, "the run to begin")
    farm.lab.cut("c")
    farm.lab.power("c")
    farm.lab.wait(lambda: ended(farm, "power", 1), 240, "the record")
    assert [r["outcome"] for r in farm.records("power")] == ["ok"]


def test_the_controller_comes_back_after_a_power_cut_with_what_was_queued(farm: DeployedFarm) -> None:
    farm.submit("queued")
    farm.lab.cut("a")
    farm.lab.power("a")
    farm.lab.wait(lambda: ended(farm, "queued", 2), 240, "the records")
    assert {r["outcome"] for r in farm.records("queued")} == {"ok"}


def test_a_worker_that_is_stopped_ends_its_job_first(farm: DeployedFarm) -> None:
    farm.submit("drain", devices="{id: fx-b-cpu}", **LONG)
    farm.lab.wait(lambda: running(farm, "drain"), 60, "the run to begin")
    farm.lab.ssh("b", "systemctl stop farm-worker@fx-b-cpu")
    assert [r["outcome"] for r in farm.records("drain")] == ["ok"]
    assert "Result=success" in farm.lab.ssh("b", "systemctl show -p Result farm-worker@fx-b-cpu")
    farm.lab.ssh("b", "systemctl start farm-worker@fx-b-cpu")


def test_an_upgrade_waits_for_the_running_job_and_goes_host_by_host(farm: DeployedFarm) -> None:
    farm.write_inventory(farm_release_suffix="next")
    farm.submit("upgrade", devices="{id: fx-b-cpu}", **LONG)
    farm.lab.wait(lambda: running(farm, "upgrade"), 60, "the run to begin")
    before = farm.lab.ssh("b", "cat /etc/inferfarm/worker.release")
    farm.play("upgrade.yml")
    releases = {farm.lab.ssh(name, "cat /etc/inferfarm/worker.release") for name in ("b", "c")}
    assert len(releases) == 1 and before not in releases
    assert [r["outcome"] for r in farm.records("upgrade")] == ["ok"]
    assert {entry["state"] for entry in farm.devices().values()} == {"ready"}


def test_removal_leaves_the_store_and_nothing_else(farm: DeployedFarm) -> None:
    shared = farm.lab.hosts["a"].directory.parent / "store"
    count = len(list((shared / "records").rglob("*.json")))
    farm.play("remove.yml")
    assert count > 5 and len(list((shared / "records").rglob("*.json"))) == count
    for name in ("a", "b", "c"):
        left = farm.lab.ssh(name, "ls /opt /etc/systemd/system; ls -d /etc/inferfarm 2>&1", check=False)
        assert "farm-" not in left and "inferfarm\n" not in left.replace("cannot access '/etc/inferfarm'", "")
        assert farm.lab.ssh(name, "pgrep -u farm || true") == ""
    farm.play("remove.yml")  # Again: nothing to do is no failure.
