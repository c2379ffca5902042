# SPDX-License-Identifier: Apache-2.0
"""What `farm probe` says of devices and stacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from farm.api import Farm
from farm.cli.main import main
from farm.cli.probed import readable, runs_here
from farm.contract.device import Announcement, DeviceInfo, StackInfo

GPU = DeviceInfo("box-gpu0", "nvidia-x", "gpu", "box", "X", {"compute_capability": "9.0", "mig": False})
CPU = DeviceInfo("box-cpu", "cpu-x", "cpu", "box", "C", {"cores": 4})
ELEVEN = StackInfo(
    "new",
    "/opt/new/python",
    "3.12.1",
    {"tensorrt": "11.4.0", "numpy": "2.1"},
    {"onnx": "ImportError: no"},
    {"implicit_int8": False, "fp16_flag": False, "cuda_runtime_versions": ["12.1", "13.0"], "cpu_flags": ["avx"]},
)


def test_every_device_is_shown_with_the_features_of_its_stacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    told = [Announcement(device, [ELEVEN], "0.1.0", 1) for device in (CPU, GPU)]
    monkeypatch.setenv("FARM_HOME", str(tmp_path))
    monkeypatch.setattr(Farm, "probe", lambda _farm: told)
    with pytest.raises(SystemExit) as ended:
        main(["probe"])
    assert ended.value.code in (0, None)
    words = " ".join(capsys.readouterr().out.split())
    for shown in ("box-cpu: C (class cpu-x)", "box-gpu0: X (class nvidia-x)", "12.1, 13.0", "onnx: ImportError: no"):
        assert shown in words
    assert "avx" not in words
    assert "quantization: explicit" in words


def test_what_runs_is_told_with_the_stack_and_what_does_not_with_the_way_out() -> None:
    rows = {(name, precision): words for name, precision, words in runs_here(GPU, [ELEVEN])}
    assert rows["onnx_tensorrt", "fp16"] == "yes, on stack new"
    assert "no implicit int8" in rows["onnx_tensorrt", "int8"]
    assert rows["onnxruntime_cpu", "all"] == "no: it runs on cpu only"
    assert "no torch" in rows["pytorch", "fp32"]


@pytest.mark.parametrize(
    ("value", "words"),
    [(True, "yes"), (False, "no"), ([], "-"), (None, "-"), ({"b": 1, "a": [True]}, "a: yes; b: 1"), (9.0, "9.0")],
)
def test_values_are_told_in_words(value: object, words: str) -> None:
    assert readable(value) == words
