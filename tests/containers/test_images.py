# SPDX-License-Identifier: Apache-2.0
"""A farm in containers, with a real Docker engine: `make test-images`. BASE and REDIS_IMAGE name other bases.

`engine.sh` starts an engine where none answers, and makes a stand-in where the bases cannot be pulled.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.tables import ROOT

pytestmark = [pytest.mark.images, pytest.mark.timeout(3600)]

#: The first of `compose up`: Redis, then four parts that each import the farm, on a busy machine.
UP_LIMIT_S = 600
VENDORS = ("tensorrt-8.6", "tensorrt-10", "tensorrt-11", "jetson-jp5", "jetson-jp6")
SWEEP = """
name: through-compose
protocol: {base: quick, warmup_min_iterations: 1, warmup_min_s: 0.0, min_iterations: 10, min_s: 0.0}
models: [squeezenet1_1]
workflows: [onnxruntime_cpu]
precisions: [fp32]
batch: [1, 2]
"""


def docker(*words: str, limit_s: int = 1800, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        ["docker", *words], cwd=ROOT, capture_output=True, text=True, timeout=limit_s, env=os.environ | (env or {})
    )
    assert done.returncode == 0, f"docker {' '.join(words)}: {(done.stdout + done.stderr)[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def engine() -> None:
    if shutil.which("docker") is None:
        pytest.skip("no docker command here")
    for words in (("info",), ("compose", "version")):
        if subprocess.run(["docker", *words], capture_output=True, timeout=60).returncode:
            pytest.skip(f"`docker {' '.join(words)}` fails here: no engine, or no compose plugin")


@pytest.fixture(scope="module")
def farm(engine: None) -> Iterator[tuple[str, ...]]:
    """A farm that `compose up --wait` brought up; afterwards it and its volumes are gone."""
    compose = ("compose", "-p", "inferfarm-test", "-f", "compose.laptop.yml")
    docker(*compose, "build")
    try:
        docker(*compose, "up", "--wait", limit_s=UP_LIMIT_S)
        yield compose
    finally:
        docker(*compose, "down", "--volumes", "--timeout", "60", limit_s=600)


def test_a_sweep_goes_through_the_containers(farm: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    (tmp_path / "sweep.yaml").chmod(0o644)
    mount = f"{tmp_path / 'sweep.yaml'}:/sweeps/sweep.yaml:ro"
    told = docker(*farm, "run", "--rm", "-v", mount, "farm", "submit", "sweep.yaml", "--watch", "--priority", "9")
    assert "2/2 runs done, 2 ok" in told
    rows = docker(*farm, "run", "--rm", "farm", "results", "through-compose", "--format", "csv").splitlines()
    assert len(rows) == 3
    numbers = docker(*farm, "exec", "-T", "metrics", "farm", "metrics", "show")
    assert 'inferfarm_jobs{state="done"}' in numbers


def test_the_containers_are_no_root_and_cannot_change_themselves(farm: tuple[str, ...]) -> None:
    for service in ("redis", "scheduler", "worker", "flower", "metrics"):
        told = docker(*farm, "exec", "-T", service, "sh", "-c", "id -u; touch /of-mine 2>&1 || true")
        assert told.splitlines()[0] == "10001", service
        assert "Read-only file system" in told, service


@pytest.mark.parametrize("stack", VENDORS)
def test_the_own_layers_of_a_vendors_image_build(engine: None, stack: str) -> None:
    base = os.environ.get("BASE", "python:3.12-slim-bookworm")
    print(f"\n{stack}: own layers on {base}, not on the vendor's base")
    arguments = [f"--build-arg={name}={value}" for name, value in os.environ.items() if name == "PIP_ARGS"]
    network = [f"--network={os.environ['BUILD_NETWORK']}"] if "BUILD_NETWORK" in os.environ else []
    tag = f"inferfarm-test/{stack}"
    docker(
        "build", *network, f"--build-arg=BASE={base}", "--build-arg=STACK_PACKAGES=", *arguments,
        "-f", f"docker/{stack}.Dockerfile", "-t", tag, ".",
    )  # fmt: skip
    assert "farm, version" in docker("run", "--rm", "--network=none", tag, "--version")
