# SPDX-License-Identifier: Apache-2.0
"""Several requests in flight, and all at once, on real libraries on the CPU; option and scenario refused by kind."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farm.contract.catalogue import WORKFLOWS
from farm.contract.fit import unfit
from farm.contract.job import JobSpec
from farm.contract.protocols import PROTOCOLS
from tests.island.harness import COMPILED, Island, model_job, with_protocol

pytestmark = pytest.mark.models
CPU = ("pytorch", "onnxruntime_cpu", "openvino")


def _job(workflow: str, **switches: Any) -> JobSpec:
    job = model_job(COMPILED if workflow == "torch_compile" else "squeezenet1_1", workflow)
    # One thread a lane, which OpenVINO counts for all lanes together, and compiled code is there for two.
    threads = 2 if workflow in ("openvino", "torch_compile") else 1
    return with_protocol(job, **({"threads": threads, "min_iterations": 24, "max_iterations": 24} | switches))


@pytest.mark.parametrize("workflow", CPU)
@pytest.mark.parametrize("boundary", ["compute", "end_to_end"])
def test_two_lanes_share_the_work_and_the_firsts_outputs_are_right(
    shared: Island, workflow: str, boundary: str
) -> None:
    job = _job(workflow, scenario="streams", streams=2, boundary=boundary)
    shared.prepare(job)
    result = shared.measure(job, 1)
    effective = result.effective
    assert (effective["scenario"], effective["streams"]) == ("streams", 2)
    assert effective["threads"] == job.protocol.threads
    assert sum(effective["lane_counts"]) == 24
    assert min(effective["lane_counts"]) >= 1
    assert result.metrics["throughput_per_s"] == pytest.approx(24 / (effective["timed_wall_ns"] / 1e9))
    (found,) = result.mismatch
    assert found.relative_l2_error < 1e-5
    assert (found.nonfinite_count, found.element_count) == (0, 1000)


@pytest.mark.parametrize("workflow", CPU)
def test_offline_gives_the_same_outputs_and_a_throughput(shared: Island, workflow: str) -> None:
    job = _job(workflow, scenario="offline")
    shared.prepare(job)
    result = shared.measure(job, 1)
    assert result.effective["timed_iterations"] == 24
    assert result.metrics["throughput_per_s"] == pytest.approx(24 / (result.effective["timed_wall_ns"] / 1e9))
    assert result.mismatch[0].relative_l2_error < 1e-5
    assert "latency" not in [file.name for file in result.samples]


def test_a_compiled_module_runs_in_lanes(shared: Island) -> None:
    job = _job("torch_compile", scenario="streams", streams=2)
    shared.prepare(job)
    result = shared.measure(job, 1)
    assert sum(result.effective["lane_counts"]) == 24
    assert result.mismatch[0].relative_l2_error < 1e-5


def test_openvino_does_not_run_more_streams_than_threads(shared: Island) -> None:
    job = _job("openvino", scenario="streams", streams=4, threads=1)
    shared.prepare(job)
    failure = shared.run(job, 1).failed("failed", "setting-not-held").failure
    assert failure is not None
    assert "NUM_STREAMS" in failure.message


def test_onnxruntime_runs_one_session_in_two_threads_at_once(tmp_path: Path) -> None:
    """Shown by a run that is entered while another has not ended: Python's lock is given up inside of each."""
    from tests.workflows.onnx_models import save_model
    from workers.workflows.onnx_session import SessionLane, open_session

    session = open_session(str(save_model(tmp_path / "model.onnx")), 1)
    lanes = [SessionLane(session) for _ in range(2)]
    rng = np.random.default_rng(0)
    placed = [lane.to_device(rng.random((4, 3, 16, 16), dtype=np.float32)) for lane in lanes]
    alone = []
    for lane, batch in zip(lanes, placed, strict=True):
        lane.infer(batch)
        alone.append(lane.outputs()[0][1])
    inside, overlaps, stop = [0], [0], threading.Event()

    def work(lane: SessionLane, batch: Any) -> None:
        while not stop.is_set():
            inside[0] += 1
            if inside[0] == 2:
                overlaps[0] += 1
            lane.infer(batch)
            inside[0] -= 1
            if overlaps[0] >= 20:
                stop.set()

    threads = [threading.Thread(target=work, args=pair) for pair in zip(lanes, placed, strict=True)]
    for thread in threads:
        thread.start()
    ended = stop.wait(240)
    stop.set()
    for thread in threads:
        thread.join()
    assert ended, "no two runs were under way at once"
    for lane, before in zip(lanes, alone, strict=True):
        np.testing.assert_array_equal(lane.outputs()[0][1], before)


@pytest.mark.parametrize("name", [name for name, info in WORKFLOWS.items() if info.gpu_options])
def test_cuda_graphs_are_refused_on_cpus(alone: Island, name: str) -> None:
    found = unfit(WORKFLOWS[name], "cpu", {"cuda_graph": True}, PROTOCOLS["quick"])
    assert found is not None
    assert found.reference == "option-unsupported"
    assert unfit(WORKFLOWS[name], "gpu", {"cuda_graph": True}, PROTOCOLS["quick"]) is None
    assert unfit(WORKFLOWS[name], "cpu", {"cuda_graph": False}, PROTOCOLS["quick"]) is None
    if "cpu" in WORKFLOWS[name].device_kinds:
        job = model_job("squeezenet1_1", name, options={"cuda_graph": True})
        alone.run(job, 1).failed("unsupported", "option-unsupported")


@pytest.mark.parametrize("name", ["onnxruntime_cuda", "onnxruntime_trt"])
def test_onnxruntimes_graphs_are_for_one_request_in_flight(name: str) -> None:
    streams = dataclasses.replace(PROTOCOLS["quick"], scenario="streams", streams=2)
    found = unfit(WORKFLOWS[name], "gpu", {"cuda_graph": True}, streams)
    assert found is not None
    assert "single" in found.hint
    assert unfit(WORKFLOWS["onnx_tensorrt"], "gpu", {"cuda_graph": True}, streams) is None
