# SPDX-License-Identifier: Apache-2.0
"""The controller's containers and a worker's, two compose projects with TLS, certificates and users: docs/deploy.md.

There is no GPU here: the `cpu` image takes the GPU image's place, and an override drops the reservation.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.containers.test_images import SWEEP, UP_LIMIT_S, docker, engine

__all__ = ["engine"]

pytestmark = [pytest.mark.images, pytest.mark.timeout(3600)]

USER = 10001
CERTIFICATES = """
new="openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
$new -x509 -days 3650 -subj /CN=farm -keyout ca.key -out ca.crt
for name in server host; do
  $new -subj /CN=$name -keyout $name.key -out $name.csr
  printf 'subjectAltName=DNS:controller,DNS:redis\\n' > $name.ext
  openssl x509 -req -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 825 -extfile $name.ext -out $name.crt
done
rm ca.key ca.srl ./*.csr ./*.ext
"""


@dataclass(frozen=True)
class Pair:
    """The two projects; `env` is what docs/deploy.md exports."""

    env: dict[str, str]
    controller: tuple[str, ...] = ("compose", "-p", "inferfarm-pair", "-f", "compose.controller.yml")
    worker: tuple[str, ...] = (
        "compose", "-p", "inferfarm-pair-worker", "-f", "compose.gpu-worker.yml", "-f", "tests/containers/no-gpu.yml",
    )  # fmt: skip

    def on_controller(self, *words: str) -> str:
        return docker(*self.controller, *words, limit_s=UP_LIMIT_S, env=self.env)

    def on_worker(self, *words: str) -> str:
        return docker(*self.worker, *words, limit_s=UP_LIMIT_S, env=self.env)

    def farm(self, *words: str, mounts: tuple[str, ...] = ()) -> str:
        """A command of somebody who may submit."""
        who = (
            "-e",
            "FARM_BROKER_USER=submitter",
            "-e",
            "FARM_BROKER_PASSWORD_FILE=/secrets/passwords/submitter.password",
        )
        shown = [word for mount in mounts for word in ("-v", mount)]
        return self.on_controller("run", "--rm", "--no-deps", *who, *shown, "scheduler", *words)

    def redis(self, *words: str, user: str = "", certificate: bool = True) -> str:
        """What Redis's own client is told, from inside of its container; refusals included."""
        own = ["--cert", "/secrets/host.crt", "--key", "/secrets/host.key"] if certificate else []
        login = f"REDISCLI_AUTH=$(cat /secrets/passwords/{user}.password) " if user else ""
        name = ["--user", user] if user else []
        line = " ".join(["redis-cli -p 6380 --tls --cacert /secrets/ca.crt", *own, *name, *words])
        return self.on_controller("exec", "-T", "redis", "sh", "-c", f"{login}{line} 2>&1 || true")


def prepare(base: Path) -> dict[str, str]:
    """The directories and secrets that docs/deploy.md says to make."""
    places = {name: base / name for name in ("secrets", "store", "redis", "config", "locks")}
    for place in places.values():
        place.mkdir()
    secrets = places["secrets"]
    subprocess.run(["sh", "-euc", CERTIFICATES], cwd=secrets, check=True, capture_output=True, timeout=60)
    farm = [str(Path(sys.executable).with_name("farm")), "broker", "acl", str(secrets / "passwords")]
    usual = subprocess.run(farm, check=True, capture_output=True, text=True, timeout=60).stdout
    admin = subprocess.run([*farm, "--role", "admin"], check=True, capture_output=True, text=True, timeout=60).stdout
    extra = [line for line in admin.splitlines() if line.startswith("user admin ")]
    (secrets / "users.acl").write_text(usual + "\n".join(extra) + "\n")
    (secrets / "worker.password").write_text((secrets / "passwords/worker.password").read_text())
    (places["config"] / "farm.toml").write_text("")
    places["locks"].chmod(0o1777)
    for directory, folders, names in os.walk(base):
        for name in (*folders, *names, "."):
            os.chown(Path(directory) / name, USER, USER)
    return {
        "FARM_HOST": "pair", "FARM_SECRETS": str(secrets), "FARM_STORE_DIR": str(places["store"]),
        "FARM_REDIS_DIR": str(places["redis"]), "FARM_CONFIG_DIR": str(places["config"]), "FARM_STACK": "cpu",
        "FARM_CONTROLLER": "controller", "FARM_GPU": "GPU-none", "FARM_DEVICE": "pair-cpu",
        "FARM_LOCK_DIR": str(places["locks"]), "EXTRAS": "cpu",
    }  # fmt: skip


@pytest.fixture(scope="module")
def pair(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    if os.geteuid() != 0:
        pytest.skip("directories of user 10001 need root")
    base = tmp_path_factory.mktemp("pair")
    for place in (base, *base.parents):
        if place.stat().st_uid == os.geteuid() and place != Path("/"):
            place.chmod(place.stat().st_mode | 0o011)
    made = Pair(prepare(base))
    docker("compose", "-f", "compose.laptop.yml", "build", env=made.env)
    try:
        made.on_controller("up", "--wait", "redis", "scheduler", "flower", "metrics")
        made.farm("store", "create")
        made.on_worker("up", "--wait", "--no-build")
        yield made
    finally:
        made.on_worker("down", "--volumes", "--timeout", "60")
        made.on_controller("down", "--volumes", "--timeout", "60")


def test_a_sweep_goes_from_the_controller_to_the_worker_and_nobody_is_refused(pair: Pair, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(SWEEP)
    told = pair.farm("submit", "/tmp/sweep.yaml", "--watch", mounts=(f"{sweep}:/tmp/sweep.yaml:ro",))
    assert "2/2 runs done, 2 ok" in told
    assert "pair-cpu" in pair.farm("devices")
    assert "0 problems" in pair.farm("artifacts", "verify")
    assert pair.redis("ACL", "LOG", user="admin").strip() in ("", "(empty array)")


def test_who_has_no_certificate_no_password_or_the_wrong_role_is_refused(pair: Pair) -> None:
    assert "PONG" in pair.redis("PING", user="reader")
    assert "PONG" not in pair.redis("PING", user="reader", certificate=False)
    assert "NOAUTH" in pair.redis("LLEN", "farm:sweeps")
    assert "NOPERM" in pair.redis("DEL", "farm:sweeps", user="reader")
    assert "NOPERM" in pair.redis("SET", "farm:spec:x", "1", user="worker")


def test_every_container_of_both_is_no_root_and_cannot_change_itself(pair: Pair) -> None:
    told = {name: pair.on_controller("exec", "-T", name, "sh", "-c", "id -u; touch /of-mine 2>&1 || true")
            for name in ("redis", "scheduler", "flower", "metrics")}  # fmt: skip
    told["worker"] = pair.on_worker("exec", "-T", "worker", "sh", "-c", "id -u; touch /of-mine 2>&1 || true")
    for name, text in told.items():
        assert text.splitlines()[0] == str(USER), name
        assert "Read-only file system" in text, name
