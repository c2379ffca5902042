# SPDX-License-Identifier: Apache-2.0
"""A farm on three hosts, from bare Debian to its removal.

The tests go in this order: one lab is deployed, hurt, upgraded and removed.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from farm import __version__
from tests.deploy.farm import STORE, DeployedFarm, Played
from tests.deploy.jetson import VARIABLES, pass_for_jetson

pytestmark = [pytest.mark.long, pytest.mark.deploy, pytest.mark.timeout(1500)]
JETSON_PLAY = Path(__file__).with_name("jetson.yml")
HOSTS = {"fx-a", "fx-b", "fx-c"}
#: A run that takes about 16 s on the fake workflow.
LONG = {"latency_ms": 100, "iterations": 150}
#: One that ends while a cable is out, about 12 s.
SHORT = {"latency_ms": 100, "iterations": 120}


def running(farm: DeployedFarm, name: str) -> bool:
    """Whether one of the sweep's jobs is being measured."""
    return "measure" in farm.farm(f"status {name}")


def ended(farm: DeployedFarm, name: str, count: int) -> bool:
    """Whether the sweep has so many records."""
    return len(farm.records(name)) >= count


def unit(farm: DeployedFarm, host: str) -> str:
    """The state of the unit of the host's worker."""
    return farm.lab.ssh(host, f"systemctl show -p ActiveState --value farm-worker@fx-{host}-cpu").strip()


def secrets(farm: DeployedFarm) -> list[str]:
    """Every password and token that the controller made."""
    return farm.lab.ssh("a", "cat /etc/inferfarm/secrets/*.password /etc/inferfarm/tokens/*.token").split()


def states(farm: DeployedFarm) -> dict[str, tuple[bool, str, str | None]]:
    """Of each device whether its worker is there, its state, and why."""
    return {name: (entry["online"], entry["state"], entry["reason"]) for name, entry in farm.devices().items()}


def test_a_machine_is_added_by_one_line_and_one_play(farm: DeployedFarm) -> None:
    """It passes for a Jetson, whose own Python is its one stack. The other worker is left out, and keeps its user."""
    pass_for_jetson(farm.lab.hosts["c"])
    farm.workers["c"] = VARIABLES
    farm.write_inventory()
    assert set(farm.play("site.yml", "--limit", "fx-a,fx-c").changed()) == {"fx-a", "fx-c"}
    farm.lab.wait(lambda: len(farm.devices()) == 2, 30, "the new worker's device")
    assert states(farm) == dict.fromkeys(("fx-b-cpu", "fx-c-cpu"), (True, "ready", None))


@pytest.fixture(scope="module")
def once_more(farm: DeployedFarm) -> tuple[Played, Played]:
    """The play on hosts that need nothing, for real and in check mode: at the same time, as neither changes any."""
    with ThreadPoolExecutor() as pool:
        real = pool.submit(farm.play, "site.yml", "-vvv")
        check = pool.submit(farm.play, "site.yml", "--check", "--limit", "fx-a,fx-c")
        return real.result(), check.result()


def test_a_second_run_changes_nothing_and_says_no_secret(farm: DeployedFarm, once_more: tuple[Played, Played]) -> None:
    assert once_more[0].changed() == dict.fromkeys(HOSTS, 0)
    assert len(secrets(farm)) >= 10
    assert [word for word in secrets(farm) if word in once_more[0].said] == []


def test_check_mode_finds_nothing_to_do(once_more: tuple[Played, Played]) -> None:
    assert once_more[1].changed() == {"fx-a": 0, "fx-c": 0}


def test_every_unit_runs_and_none_failed(farm: DeployedFarm) -> None:
    units = ("redis", "scheduler", "store", "nightly", "flower", "pages")
    farm.lab.ssh("a", "systemctl is-active " + " ".join(f"farm-{unit}" for unit in units))
    for name in ("a", "b", "c"):
        assert farm.lab.ssh(name, "systemctl --failed --no-legend") == ""


def test_a_board_is_set_as_the_inventory_says_and_otherwise_left_alone(farm: DeployedFarm) -> None:
    assert farm.lab.ssh("c", "nvpmodel -q | tail -1; cat /var/lib/nvpmodel.log") == "0\nasked for 0\n"
    assert farm.lab.ssh("c", "cat /run/clocks; systemctl is-active farm-jetson-clocks") == "locked in mode 0\nactive\n"
    show = "systemctl show -p DevicePolicy --value farm-worker@fx-"
    assert [farm.lab.ssh(name, f"{show}{name}-cpu").strip() for name in ("b", "c")] == ["closed", "auto"]
    stacks = {name: [stack["name"] for stack in entry["stacks"]] for name, entry in farm.devices().items()}
    assert stacks == {"fx-b-cpu": ["default"], "fx-c-cpu": ["jetpack"]}


@pytest.mark.parametrize(
    ("mode", "why"), [("MODE_50W", "MAXN, MODE_10W, MODE_15W"), ("MODE_10W", "Read the mode back")]
)
def test_a_power_mode_that_cannot_be_had_fails_the_play(farm: DeployedFarm, mode: str, why: str) -> None:
    done = farm.try_play(str(JETSON_PLAY), "-e", f"jetson_power_mode={mode}")
    assert done.returncode != 0 and why in done.stdout
    assert farm.lab.ssh("c", "nvpmodel -q | tail -1").strip() == "0"


def test_passwords_and_keys_are_for_their_owners_only(farm: DeployedFarm) -> None:
    for name in ("a", "b", "c"):
        named = r"\( -name '*.password' -o -name '*.key' -o -name '*.token' \)"
        found = farm.lab.ssh(name, rf"find /etc/inferfarm -type f {named} -printf '%m %u %P\n'")
        assert found.count("\n") >= 3
        assert {line.split()[0] for line in found.splitlines()} <= {"600", "640"}
        # Tokens are made by the account that the store's service runs as.
        assert {line.split()[1] for line in found.splitlines() if " tokens/" not in line} == {"root"}
    assert farm.lab.ssh("a", "stat -c '%a %U' /etc/inferfarm/tokens /etc/inferfarm/authority") == "700 farm\n700 root\n"


def test_a_sweep_runs_on_both_workers_and_the_broker_refused_nothing(farm: DeployedFarm) -> None:
    farm.submit("both")
    farm.lab.wait(lambda: ended(farm, "both", 2), 120, "the records of both workers")
    records = farm.records("both")
    assert {(r["device_id"], r["outcome"]) for r in records} == {("fx-b-cpu", "ok"), ("fx-c-cpu", "ok")}
    assert farm.acl_log().strip() in ("", "(empty array)")
    for name in ("b", "c"):
        assert farm.lab.ssh(name, f"ls -d {STORE} 2>/dev/null || echo none") == "none\n"


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


ASK_STORE = """
import ssl, sys, urllib.error, urllib.request
context = ssl.create_default_context(cafile=sys.argv[2] or None)
headers = {"Inferfarm-Version": sys.argv[4]} | ({"Authorization": "Bearer " + sys.argv[3]} if sys.argv[3] else {})
try:
    request = urllib.request.Request(sys.argv[1], headers=headers)
    print(urllib.request.urlopen(request, context=context, timeout=10).status)
except urllib.error.HTTPError as error:
    print(error.code)
except urllib.error.URLError as error:
    print(type(error.reason).__name__)
"""


def test_the_stores_service_answers_its_workers_alone(farm: DeployedFarm) -> None:
    digest = farm.lab.ssh("a", f"basename $(find {STORE}/blobs -type f | head -1)").strip()
    ca, token = "/etc/inferfarm/pki/ca.crt", "$(cat /etc/inferfarm/secrets/store-fx-b-cpu.token)"
    asked = [
        farm.lab.ssh("b", f"python3 - {url} '{trusted}' \"{shown}\" {__version__} <<'EOF'\n{ASK_STORE}EOF").strip()
        for url, trusted, shown in (
            ("https://fx-a:8470/healthz", ca, ""),
            ("https://fx-a:8470/healthz", "", ""),
            (f"https://fx-a:8470/v1/blobs/{digest}", ca, ""),
            (f"https://fx-a:8470/v1/blobs/{digest}", ca, "fx-b-cpu:" + "x" * 43),
            (f"https://fx-a:8470/v1/blobs/{digest}", ca, token),
        )
    ]
    assert asked == ["200", "SSLCertVerificationError", "401", "401", "200"], asked


def test_a_machine_joins_by_hand(farm: DeployedFarm) -> None:
    """With a certificate of its own, which this farm's broker asks for, and which joining brings."""
    token = farm.farm("worker invite guest --device guest-cpu --passwords /etc/inferfarm/secrets", role="store")
    own = "FARM_CONFIG=/root/guest/farm.toml"
    join = (
        "/opt/inferfarm/current/bin/farm worker --device guest-cpu --join https://fx-a:8470 --token-file - --no-start"
    )
    farm.lab.ssh("b", f"{own} FARM_HOME=/root/guest/home {join} <<<'{token.strip()}'")
    said = farm.lab.ssh("b", f"{own} /opt/inferfarm/current/bin/farm doctor", check=False)
    assert "takes this worker's token" in said and "one is at work" in said, said
    farm.lab.ssh("b", "rm -r /root/guest")


def settled(farm: DeployedFarm, name: str, device: str) -> None:
    """Wait for the sweep's record and have the worker do another job; there is still one, and it is a good one."""
    farm.lab.wait(lambda: ended(farm, name, 1), 240, f"the record of {name}")
    farm.submit(f"{name}-after", devices=f"{{id: {device}}}")
    farm.lab.wait(lambda: ended(farm, f"{name}-after", 1), 120, "the next record")
    assert [r["outcome"] for r in farm.records(name)] == ["ok"]


def test_jobs_end_while_cables_are_out_and_a_hosts_power_is_cut_meanwhile(farm: DeployedFarm) -> None:
    """One cable is out for three leases, so that its device counts as gone. The other host's is out for 30 s, then its
    power is cut. Each job is recorded once, and each worker goes on."""
    farm.submit("cable-long", devices="{id: fx-b-cpu}", **SHORT)
    farm.submit("cable", devices="{id: fx-c-cpu}", **SHORT)
    farm.lab.wait(lambda: running(farm, "cable-long") and running(farm, "cable"), 60, "both runs to begin")
    begin = time.monotonic()
    with farm.lab.unplugged("b"):
        with farm.lab.unplugged("c"):
            time.sleep(30)  # The time that a cable is out is what is tested.
        settled(farm, "cable", "fx-c-cpu")
        farm.submit("power", devices="{id: fx-c-cpu}", **LONG)
        farm.lab.wait(lambda: running(farm, "power"), 60, "the run to begin")
        farm.lab.cut("c")
        farm.lab.power("c")
        time.sleep(max(0, begin + 90 - time.monotonic()))
    settled(farm, "cable-long", "fx-b-cpu")
    settled(farm, "power", "fx-c-cpu")


def test_the_controller_comes_back_after_a_power_cut_with_what_was_queued(farm: DeployedFarm) -> None:
    farm.submit("before", latency_ms=100, iterations=300)
    farm.lab.wait(lambda: running(farm, "before"), 60, "a run to begin")
    farm.submit("queued")
    assert farm.records("before") == []  # So what was submitted after it waits.
    farm.lab.cut("a")
    farm.lab.power("a")
    farm.lab.wait(lambda: ended(farm, "queued", 2), 240, "the records")
    assert {r["outcome"] for name in ("before", "queued") for r in farm.records(name)} == {"ok"}


def test_a_worker_that_is_stopped_ends_its_job_first(farm: DeployedFarm) -> None:
    farm.submit("drain", devices="{id: fx-b-cpu}", **SHORT)
    farm.lab.wait(lambda: running(farm, "drain"), 60, "the run to begin")
    with farm.held("b"):
        farm.lab.ssh("b", "systemctl stop --no-block farm-worker@fx-b-cpu")
        farm.lab.wait(lambda: unit(farm, "b") == "deactivating", 30, "the stop to begin")
        assert running(farm, "drain")
    farm.lab.wait(lambda: unit(farm, "b") == "inactive", 120, "the worker's end")
    assert [r["outcome"] for r in farm.records("drain")] == ["ok"]
    assert "Result=success" in farm.lab.ssh("b", "systemctl show -p Result farm-worker@fx-b-cpu")
    farm.lab.ssh("b", "systemctl start farm-worker@fx-b-cpu")


def test_an_upgrade_stops_at_the_first_failure(farm: DeployedFarm) -> None:
    release = farm.lab.ssh("b", "cat /etc/inferfarm/worker.release")
    farm.workers["b"] = {"farm_python": "/opt/no/python3"}
    farm.write_inventory(farm_release_suffix="next")
    done = farm.try_play("upgrade.yml")
    assert done.returncode != 0 and "fx-b-cpu could not be upgraded" in done.stdout
    # The one that failed runs as before and takes no jobs, the next one was not touched.
    assert [farm.lab.ssh(name, "cat /etc/inferfarm/worker.release") for name in ("b", "c")] == [release, release]
    farm.lab.ssh("b", "systemctl is-active farm-worker@fx-b-cpu")
    after = states(farm)
    assert after["fx-b-cpu"][1] == "drained" and after["fx-c-cpu"] == (True, "ready", None)


def test_an_upgrade_waits_for_the_running_job_and_leaves_what_people_said(farm: DeployedFarm) -> None:
    """It goes on where the one before failed, and lets that device take jobs again."""
    farm.workers["b"] = {}
    farm.write_inventory(farm_release_suffix="next")
    release = farm.lab.ssh("c", "cat /etc/inferfarm/worker.release").strip()
    # What a pip leaves that was killed is no release.
    farm.lab.ssh("c", f"d=/opt/inferfarm/releases/{release}next/bin; mkdir -p $d; touch $d/pip $d/farm")
    farm.lab.ssh("c", "mkdir -p /opt/inferfarm/releases/0.0.9/bin")
    farm.submit("upgrade", devices="{id: fx-c-cpu}", **SHORT)
    farm.lab.wait(lambda: running(farm, "upgrade"), 60, "the run to begin")
    with ThreadPoolExecutor() as pool:
        with farm.held("c"):
            farm.farm("devices drain fx-c-cpu --reason 'new fan'")
            upgrade = pool.submit(farm.play, "upgrade.yml")
            farm.lab.wait(lambda: upgrade.done() or unit(farm, "c") == "deactivating", 600, "the job's host's turn")
            assert unit(farm, "c") == "deactivating" and running(farm, "upgrade"), upgrade.result().said
        upgrade.result()
    assert [r["outcome"] for r in farm.records("upgrade")] == ["ok"]
    for name in ("b", "c"):
        program = f"/proc/$(systemctl show -p MainPID --value farm-worker@fx-{name}-cpu)/cmdline"
        assert f"/opt/inferfarm/releases/{release}next/" in farm.lab.ssh(name, f"cat {program}")
        # This one and the one before.
        assert farm.lab.ssh(name, "ls /opt/inferfarm/releases").split() == [release, f"{release}next"]
    assert states(farm) == {"fx-b-cpu": (True, "ready", None), "fx-c-cpu": (True, "drained", "new fan")}


def test_removal_leaves_the_store_and_nothing_else(farm: DeployedFarm) -> None:
    count = "find /var/lib/inferfarm/store/records -name '*.json' | wc -l"
    records = int(farm.lab.ssh("a", count))
    farm.play("remove.yml")
    assert records > 5 and int(farm.lab.ssh("a", count)) == records
    assert farm.lab.ssh("c", "cat /run/clocks") == "free\n"
    for name in ("a", "b", "c"):
        left = farm.lab.ssh(name, "ls /opt /etc/systemd/system; ls -d /etc/inferfarm 2>&1", check=False)
        assert "farm-" not in left and "inferfarm\n" not in left.replace("cannot access '/etc/inferfarm'", "")
        assert farm.lab.ssh(name, "pgrep -u farm || true") == ""
        kept = farm.lab.ssh(name, "ls /var/lib/inferfarm", check=False)
        assert kept == ("store\n" if name == "a" else "")
    farm.play("remove.yml")  # Again: nothing to do is no failure.
