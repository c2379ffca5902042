# SPDX-License-Identifier: Apache-2.0
"""What the driver answers becomes features, what fails is left out. No driver is involved."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from workers.runner import probe_gpu
from workers.runner.probe_gpu import driver_features, runtime_versions


def driver(**answers: int | None) -> Any:
    """A driver's library: each function writes its number, or gives an error where that is None."""
    told: dict[str, int | None] = {"version": 13000, "init": 0, "count": 1, "device": 0, "major": 9, "minor": 0}
    told |= answers

    def giving(name: str) -> Any:
        def function(out: Any, *_more: Any) -> int:
            if told[name] is None:
                return 100
            out._obj.value = told[name]
            return 0

        return function

    def attribute(out: Any, which: int, _device: int) -> int:
        return int(giving({75: "major", 76: "minor"}[which])(out))

    return SimpleNamespace(
        cuDriverGetVersion=giving("version"),
        cuInit=lambda _flags: told["init"],
        cuDeviceGetCount=giving("count"),
        cuDeviceGet=giving("device"),
        cuDeviceGetAttribute=attribute,
    )


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ({}, {"cuda_driver_version": "13.0", "visible_gpus": 1, "compute_capability": "9.0"}),
        ({"version": 12080, "major": 8, "minor": 7}, {"cuda_driver_version": "12.8", "compute_capability": "8.7"}),
        ({"init": 100}, {"cuda_driver_version": "13.0"}),
        ({"count": 0}, {"cuda_driver_version": "13.0", "visible_gpus": 0}),
        ({"minor": None}, {"cuda_driver_version": "13.0", "visible_gpus": 1}),
        ({"version": None, "count": None}, {}),
    ],
)
def test_what_the_driver_tells(answers: dict[str, int | None], found: dict[str, Any]) -> None:
    told = driver_features(driver(**answers))
    assert {key: told.get(key) for key in found} == found
    if "compute_capability" not in found:
        assert "compute_capability" not in told


def test_only_runtimes_of_cuda_are_asked_for_their_version(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(path: str) -> Any:
        asked.append(path)

        def version(out: Any) -> int:
            out._obj.value = 12010
            return 0

        return SimpleNamespace(cudaRuntimeGetVersion=version)

    monkeypatch.setattr(probe_gpu.ctypes, "CDLL", load)
    paths = ["/x/libcudart-9335f6a2.so.12", "/y/libcudart.so.12.1.105", "/z/libcuda.so.1", "/z/libcudart.txt"]
    assert runtime_versions(paths) == ["12.1"]
    assert asked == paths[:2]


def test_a_host_without_a_driver_has_no_such_features_and_no_problem() -> None:
    problems: dict[str, str] = {}
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        patch.setattr(probe_gpu, "_DRIVER", "libnothing-of-the-kind.so.1")
        assert probe_gpu.probe(problems) == {}
    assert problems == {}


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import os; os.abort()", "code -6"),
        ("import time; time.sleep(60)", "within"),
        ("raise SystemExit(3)", "code 3"),
    ],
)
def test_a_driver_that_crashes_or_hangs_is_a_problem_and_what_was_found_by_then_is_kept(
    monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    # Any library that is there stands for the driver's: the other process is what misbehaves.
    monkeypatch.setattr(probe_gpu, "_DRIVER", None)
    monkeypatch.setattr(probe_gpu, "_LIMIT_S", 3.0)
    first = "import sys, json; json.dump({'visible_gpus': 1}, open(sys.argv[2], 'w')); "
    monkeypatch.setattr(probe_gpu, "_ASK", first + script)
    problems: dict[str, str] = {}
    assert probe_gpu.probe(problems)["visible_gpus"] == 1
    assert words in problems["cuda features"]
