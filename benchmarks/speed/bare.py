#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The limit: what a person without a farm writes to measure the same points in one process.

    python benchmarks/speed/bare.py '{"models": [...], "batches": [...], ...}' OUT.json

For each model: random weights with settled BatchNorm, saved and exported to ONNX, and a reference output of each batch
size. For each point: load, first inference, warm-up and timed runs by the same minima, outputs against the reference,
samples in a file. At the end the medians, in a JSON file.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import tempfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Measure every point and write what came out."""
    asked, found = json.loads(sys.argv[1]), []
    with tempfile.TemporaryDirectory() as folder:
        for model in asked["models"]:
            made = prepare(model, asked, Path(folder))
            for workflow in asked["workflows"]:
                for batch in asked["batches"]:
                    point = measure(made, workflow, batch, asked, Path(folder))
                    found.append({"model": model, "workflow": workflow, "batch": batch, **point})
    Path(sys.argv[2]).write_text(json.dumps(found))


def prepare(name: str, asked: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Weights, graph and references of a model."""
    torch, torchvision = _libraries(asked["threads"])
    torch.manual_seed(0)
    shape = (3, asked["size"], asked["size"])
    module = torchvision.models.get_model(name, weights=None)
    module.train()
    with torch.no_grad():
        for _ in range(2):
            module(torch.rand(8, *shape))
    module.eval()
    weights, graph = folder / f"{name}.pt", folder / f"{name}.onnx"
    torch.save(module.state_dict(), weights)
    axes = {"input": {0: "batch"}, "output": {0: "batch"}}
    torch.onnx.export(module, torch.rand(2, *shape), str(graph), input_names=["input"], output_names=["output"],
                      dynamic_axes=axes, opset_version=17, dynamo=False)  # fmt: skip
    inputs = {batch: torch.rand(batch, *shape) for batch in asked["batches"]}
    with torch.inference_mode():
        references = {batch: module(given).numpy() for batch, given in inputs.items()}
    return {"name": name, "weights": weights, "graph": graph, "inputs": inputs, "references": references}


def measure(made: dict[str, Any], workflow: str, batch: int, asked: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One point."""
    import numpy as np

    run = {"pytorch": _pytorch, "onnxruntime_cpu": _onnxruntime}[workflow](made, batch, asked["threads"])
    run()
    gc.collect()
    gc.disable()
    loop(run, asked["warmup_min_iterations"], asked["warmup_min_s"])
    samples = loop(run, asked["min_iterations"], asked["min_s"])
    gc.enable()
    reference = made["references"][batch]
    mismatch = [100 * float((~np.isclose(run(), reference, rtol, 1e-8)).mean()) for rtol in (1e-3, 1e-4)]
    with (folder / f"{made['name']}-{workflow}-{batch}.i64").open("wb") as stream:
        samples.tofile(stream)
    return {"latency_ms": statistics.median(samples) / 1e6, "samples": len(samples), "mismatch": mismatch}


def loop(run: Callable[[], Any], least: int, least_s: float) -> array[int]:
    """Time `run` until both minima are reached."""
    clock, samples = time.perf_counter_ns, array("q")
    begin = end = clock()
    while len(samples) < least or end - begin < least_s * 1e9:
        start = clock()
        run()
        end = clock()
        samples.append(end - start)
    return samples


def _pytorch(made: dict[str, Any], batch: int, threads: int) -> Callable[[], Any]:
    torch, torchvision = _libraries(threads)
    module = torchvision.models.get_model(made["name"], weights=None)
    module.load_state_dict(torch.load(made["weights"], weights_only=True))
    module.eval()
    given = made["inputs"][batch]

    def run() -> Any:
        with torch.inference_mode():
            return module(given).numpy()

    return run


def _onnxruntime(made: dict[str, Any], batch: int, threads: int) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(made["graph"]), options, providers=["CPUExecutionProvider"])
    given = {"input": made["inputs"][batch].numpy()}
    return lambda: session.run(None, given)[0]


def _libraries(threads: int) -> tuple[Any, Any]:
    # The one thing taken from the farm: how a torchvision built for CUDA is imported on a torch built for CPUs.
    sys.path.insert(0, str(ROOT))
    import torch

    from workers.workflows.torch_setup import import_torchvision

    torch.set_num_threads(threads)
    return torch, import_torchvision()


if __name__ == "__main__":
    main()
