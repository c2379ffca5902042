# SPDX-License-Identifier: Apache-2.0
"""A machine joins with a one-time token, and works without ever seeing the store's directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.api import Farm
from farm.contract.record import Record
from farm.errors import UnavailableError, UsageError
from farm.joining import certificate_fingerprint, check_free, join
from farm.local import LocalFarm
from farm.store_service.access import Access, Invitation, JoinToken
from tests.e2e.conftest import wait_for
from tests.security.tls_server import make_authority, running
from tests.store_service.served import Served, serving

#: A host name and mounts of its own; an empty directory over the store of the controller.
APART = [
    "unshare",
    "--uts",
    "--mount",
    "sh",
    "-c",
    'hostname second && mount -t tmpfs none "$1" && shift && exec "$@"',
    "sh",
]


def token_of(served: Served, name: str = "second", kind: str | None = None) -> JoinToken:
    invitation = Invitation(name, (), kind, served.url, "redis://127.0.0.1:1/0", None, None)
    fingerprint = certificate_fingerprint((served.directory / "ca.crt").read_text())
    return Access(served.settings.access_dir).invite(invitation, fingerprint)


def test_the_fingerprint_is_that_of_openssl(served: Served) -> None:
    command = ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", str(served.directory / "ca.crt")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    pem = (served.directory / "ca.crt").read_text()
    assert certificate_fingerprint(pem) == told.partition("=")[2].strip().replace(":", "").lower()
    for odd in ("", "x", pem + pem, pem.replace("-----END", "")):
        with pytest.raises(UsageError):
            certificate_fingerprint(odd)


def test_a_token_joins_once(served: Served) -> None:
    token = token_of(served)
    joined = join(served.url, token)
    assert joined.answer["store_url"] == served.url
    assert Access(served.settings.access_dir).check(joined.answer["store_token"]) is not None
    with pytest.raises(UsageError, match="used, over"):
        join(served.url, token)


def test_a_token_is_shown_to_no_service_of_another_authority(served: Served, tmp_path: Path) -> None:
    token = token_of(served)
    make_authority(tmp_path)
    other = JoinToken(token.invitation, token.secret, certificate_fingerprint((tmp_path / "ca.crt").read_text()))
    with pytest.raises(UnavailableError, match="another fingerprint"):
        join(served.url, other)
    assert join(served.url, token).answer["name"] == "second"


def test_no_settings_are_written_over_and_no_token_spent_for_it(tmp_path: Path) -> None:
    (tmp_path / "farm.toml").write_text("")
    with pytest.raises(UsageError, match=r"farm\.toml"):
        check_free(tmp_path / "farm.toml")


def test_a_farm_is_not_joined_in_the_clear(served: Served) -> None:
    with pytest.raises(UsageError, match="https"):
        join("http://127.0.0.1:1", token_of(served))


def _apart() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*APART, "/mnt", "true"], capture_output=True, timeout=120).returncode == 0


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[tuple[Farm, Served]]:
    """A farm with a worker of its own, and its store served."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl: install Debian's openssl to test the store's TLS")
    with serving(tmp_path) as served, LocalFarm(served.settings):
        yield Farm(served.settings), served


def farm_command(served: Served, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "farm.cli.main", *words]
    return subprocess.run(command, env=served.environment() | more, capture_output=True, text=True, timeout=120)


def test_an_invitation_brings_the_workers_user_and_never_the_controllers(served: Served, tmp_path: Path) -> None:
    asked = ("worker", "invite", "lab2", "--device", "lab2-cpu", "--store-url", served.url)
    broker = {"FARM_BROKER_URL": "rediss://controller:6380/0", "FARM_BROKER_PASSWORD": "of the scheduler, 16 long"}
    refused = farm_command(served, *asked, **broker)
    assert refused.returncode == 2 and "--passwords" in refused.stderr
    for name in ("worker", "scheduler"):
        (tmp_path / f"{name}.password").write_text(f"the {name}s own password\n")
    done = farm_command(served, *asked, "--passwords", str(tmp_path), **broker)
    assert done.returncode == 0, done.stderr
    answer = join(served.url, JoinToken.parse(done.stdout)).answer
    assert (answer["broker_url"], answer["broker_user"]) == ("rediss://controller:6380/0", "worker")
    assert answer["broker_password"] == "the workers own password"
    grant = Access(served.settings.access_dir).check(answer["store_token"])
    assert grant is not None and grant.devices == ("lab2-cpu",)
    assert "password" not in done.stdout


def test_a_broker_that_asks_for_a_certificate_is_reached_with_the_one_that_joining_brought(
    served: Served, tmp_path: Path
) -> None:
    (tmp_path / "redis").mkdir()
    with running(tmp_path / "redis", served.settings) as server:
        passwords = server.directory / "passwords"
        broker = {"FARM_BROKER_URL": f"rediss://127.0.0.1:{server.port}/0", "FARM_BROKER_PASSWORD": "x" * 16}
        asked = ("worker", "invite", "lab2", "--store-url", served.url, "--passwords", str(passwords))
        shutil.copy(server.directory / "client.crt", passwords / "worker.crt")
        refused = farm_command(served, *asked, **broker)
        assert refused.returncode == 2 and "one is missing" in refused.stderr
        shutil.copy(server.directory / "client.key", passwords / "worker.key")
        done = farm_command(served, *asked, **broker)
        assert done.returncode == 0, done.stderr
        config = tmp_path / "etc/farm.toml"
        own = {"FARM_CONFIG": str(config), "FARM_HOME": str(tmp_path / "home")}
        # The authority of the broker is not the store's here: a host's own settings say so.
        own |= {"FARM_BROKER_CA_FILE": str(server.directory / "ca.crt")}
        words = ("worker", "--join", served.url, "--no-start")
        joined = farm_command(served, *words, **own | {"FARM_JOIN_TOKEN": done.stdout.strip()})
        assert joined.returncode == 0, joined.stderr
        assert {path.stat().st_mode & 0o177 for path in config.parent.iterdir()} == {0}
        told = tomllib.loads(config.read_text())
        assert {Path(told[f"broker_{kind}_file"]).name for kind in ("cert", "key")} == {"broker.crt", "broker.key"}
        assert "from the broker's" in farm_command(served, "doctor", **own).stdout
        kept = [line for line in config.read_text().splitlines() if not line.startswith(("broker_cert", "broker_key"))]
        config.write_text("\n".join(kept))
        assert "from the broker's" not in farm_command(served, "doctor", **own).stdout


def test_what_joining_writes_is_for_its_user_alone_and_is_read_again(served: Served, tmp_path: Path) -> None:
    config = tmp_path / "etc/farm.toml"
    (tmp_path / "token").write_text(str(token_of(served)) + "\n")
    words = ("worker", "--join", served.url, "--token-file", str(tmp_path / "token"), "--no-start")
    own = {"FARM_CONFIG": str(config), "FARM_HOME": str(tmp_path / "home")}
    done = farm_command(served, *words, **own)
    assert done.returncode == 0, done.stderr
    assert {path.stat().st_mode & 0o177 for path in config.parent.iterdir()} == {0}
    told = tomllib.loads(config.read_text())
    assert (told["store_url"], told["broker_url"]) == (served.url, "redis://127.0.0.1:1/0")
    checked = farm_command(served, "doctor", **own | {"FARM_STORE_CA_FILE": told["store_ca_file"]})
    assert "takes this worker's token" in checked.stdout
    again = farm_command(served, *words, **own)
    assert again.returncode == 2 and "has settings" in again.stderr


@pytest.mark.skipif(not _apart(), reason="needs root and unshare, to take the store's directory from a process")
def test_a_worker_that_joined_runs_a_job_without_the_stores_directory(
    controller: tuple[Farm, Served], tmp_path: Path
) -> None:
    farm, served = controller
    done = farm_command(served, "worker", "invite", "second", "--device-kind", "cpu", "--store-url", served.url)
    assert done.returncode == 0, done.stderr
    token, config = done.stdout.strip(), tmp_path / "second-etc/farm.toml"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FARM_")}
    environment |= {
        "FARM_CONFIG": str(config),
        "FARM_HOME": str(tmp_path / "second"),
        "FARM_LOCK_DIR": str(tmp_path / "second-locks"),
        "FARM_IDLE_WAIT_S": "0",
        "FARM_JOIN_TOKEN": token,
    }
    with (tmp_path / "worker.log").open("wb") as log:
        command = [*APART, str(served.settings.store_dir), sys.executable, "-m", "farm.cli.main", "worker"]
        worker = subprocess.Popen([*command, "--join", served.url], env=environment, stdout=log, stderr=log)
    try:
        wait_for(lambda: "second-cpu" in {e.device_id for e in farm.devices() if e.online}, "the second device")
        assert {path.stat().st_mode & 0o077 for path in config.parent.iterdir()} == {0}
        assert token.split(".")[2] not in "".join(path.read_text() for path in config.parent.iterdir())
        path = tmp_path / "apart.yaml"
        path.write_text(
            "name: apart\nprotocol: {base: quick, warmup_min_s: 0.0, min_s: 0.0}\nmodels: [resnet18]\n"
            "workflows: [{name: fake, latency_ms: 5}]\nprecisions: [fp32]\nbatch: [1, 2]\ndevices: [{id: second-cpu}]\n"
        )
        submission = farm.submit(path)
        for _ in farm.watch(submission.sweep_id, limit_s=240):
            pass
        records = [record for record in farm.records(submission.sweep_id) if isinstance(record, Record)]
        assert [(record.outcome.value, record.device and record.device.host) for record in records] == [
            ("ok", "second")
        ] * 2
        refs = [ref for record in records for ref in (*record.samples, *record.artifacts)]
        assert refs and all(served.store.blobs.exists(ref.sha256) for ref in refs)
        assert (
            "token" not in (tmp_path / "worker.log").read_text() or token not in (tmp_path / "worker.log").read_text()
        )
    finally:
        worker.terminate()
        assert worker.wait(timeout=120) == 0
