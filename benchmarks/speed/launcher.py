# SPDX-License-Identifier: Apache-2.0
"""What a point costs in optimum-benchmark's process launcher: a peer that starts a process for each point, too.

It gets a virtual environment of its own, made once with pip and kept in ~/.cache/inferfarm/speed (or
FARM_BENCHMARKS_CACHE), some 2 GB. Nothing is fetched while it measures: its models are built from configurations.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

VERSION = "0.6.0"
#: No squeezenet in transformers, and the backend's models are transformers' own: the nearest of the three.
NOTE = (
    f"optimum-benchmark {VERSION}, backend pytorch, random weights: transformers' ResNet-18 and MobileNetV2 (it has no "
    "squeezenet); its wall clock less load, first and tracked forwards"
)
_LIMIT_S = 1800.0
_ROOT = Path(__file__).resolve().parents[2]

#: Runs in that environment: FOLDER THREADS. Prints the seconds of each launch outside of its own work, as JSON.
_SCRIPT = """
import json, logging, os, sys, time
from pathlib import Path
if __name__ == "__main__":
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", LOG_LEVEL="ERROR", LOG_TO_FILE="0",
                      TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS=sys.argv[2])
    from transformers import AutoModelForImageClassification, MobileNetV2Config, ResNetConfig
    from optimum_benchmark import Benchmark, BenchmarkConfig, InferenceConfig, ProcessConfig, PyTorchConfig
    folder, threads, found = Path(sys.argv[1]), int(sys.argv[2]), []
    configs = {
        "resnet": ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic",
                               architectures=["ResNetForImageClassification"], num_labels=1000),
        "mobilenet_v2": MobileNetV2Config(image_size=64, num_labels=1000,
                                          architectures=["MobileNetV2ForImageClassification"]),
    }
    for kind, config in configs.items():
        AutoModelForImageClassification.from_config(config).save_pretrained(folder / kind)
        backend = PyTorchConfig(model=str(folder / kind), library="transformers", task="image-classification",
                                model_type=kind, device="cpu", inter_op_num_threads=threads)
        shapes = dict(batch_size=1, num_channels=3, height=64, width=64)
        scenario = InferenceConfig(iterations=30, duration=2, warmup_runs=10, input_shapes=shapes)
        made = BenchmarkConfig(name=kind, backend=backend, scenario=scenario, launcher=ProcessConfig())
        began = time.monotonic()
        report = Benchmark.launch(made).to_dict()
        wall = time.monotonic() - began
        work = sum(part["latency"]["total"] for part in report.values() if part and part.get("latency"))
        found.append(wall - work)
    print("FOUND " + json.dumps(found))
"""


def interpreter() -> tuple[Path | None, str]:
    """The environment's Python, made where it is not there; or None and why it cannot be had."""
    base = Path(os.environ.get("FARM_BENCHMARKS_CACHE", "~/.cache/inferfarm/speed")).expanduser()
    folder = base / f"optimum-benchmark-{VERSION}"
    python, ready = folder / "bin/python", folder / "ready"
    if not ready.is_file():
        venv.create(folder, with_pip=True, clear=True)
        # transformers 5 has lost names that it imports, and datasets 5 asks for more than transformers 4 allows.
        names = [f"optimum-benchmark=={VERSION}", "transformers>=4.50,<5", "datasets>=4,<5", "pillow"]
        binary = ["--only-binary", "tokenizers,transformers,datasets,pyarrow,torch"]
        command = [str(python), "-m", "pip", "install", "-q", *binary, *names, *_same_torch()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
        if done.returncode != 0:
            words = (done.stderr.strip().splitlines() or ["no word"])[-1]
            return None, f"optimum-benchmark could not be installed: {words[:200]}"
        ready.touch()
    return python, ""


def _same_torch() -> list[str]:
    """The release of torch that the farm's tests ran with. The other constraints rule out transformers 4."""
    lines = (_ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line.startswith("torch==")]


def point_s(python: Path, threads: int) -> float:
    """The median seconds of a launch outside of its own work.

    Raises:
        RuntimeError: it failed; the message ends with what it wrote.
    """
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "launch.py"
        script.write_text(_SCRIPT)
        command = [str(python), str(script), folder, str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False, cwd=folder)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    if done.returncode != 0 or not lines:
        raise RuntimeError(f"optimum-benchmark failed: {done.stderr[-2000:]}")
    return statistics.median(json.loads(lines[-1].removeprefix("FOUND ")))


if __name__ == "__main__":
    found, why = interpreter()
    sys.stdout.write(f"{point_s(found, 1) if found else why}\n")
