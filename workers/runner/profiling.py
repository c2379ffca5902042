# SPDX-License-Identifier: Apache-2.0
"""Take an inference apart, in a process of its own: nothing that is measured runs under a profiler."""

import os
from dataclasses import replace
from typing import Any, Callable, Dict, List

from farm.contract.canonical import sha256_file
from farm.contract.codec import to_json
from farm.contract.job import JobSpec
from farm.contract.layers import LAYERS_ARTIFACT, LayerTable
from farm.contract.run import ArtifactFile
from workers.runner import measure, timeline
from workers.runner.control import Control, write_json
from workers.workflows.base import Workflow
from workers.workflows.layers import table

LAYERS_FILE = "layers.json"
_WARM_UP_LEAST, _WARM_UP_NS = 5, 500_000_000
_LEAST, _MOST, _ABOUT_NS = 10, 50, 3_000_000_000


def warm_up(body: Callable[[Any], None], inputs: List[Any]) -> float:
    """Run for half a second, five times at least; return about what an inference takes in ns."""
    done = measure.timed_loop(body, inputs, measure.Limits(_WARM_UP_LEAST, _WARM_UP_NS, 100_000, 60 * 1_000_000_000))
    return done.wall_ns / len(done.samples)


def iterations(each_ns: float) -> int:
    """How many inferences to profile: about three seconds' worth, 10 to 50. Pure."""
    return max(_LEAST, min(_MOST, int(_ABOUT_NS // max(each_ns, 1.0))))


def alone(job: JobSpec) -> JobSpec:
    """The job with one request in flight, inputs on the device and no CUDA graph, which would hide what is in it."""
    options = {name: value for name, value in job.options.items() if name != "cuda_graph"}
    return replace(job, options=options, protocol=replace(job.protocol, boundary="compute", scenario="single"))


def run(
    control: Control,
    workflow: Workflow,
    body: Callable[[Any], None],
    inputs: List[Any],
    count: int,
    effective: Dict[str, Any],
) -> None:
    """Do what the request's mode says, keep its artifact, and put what is told of it into `effective`."""
    if workflow.ctx.request.mode == "timeline":
        workflow.ctx.artifacts.append(timeline.take(control, workflow, inputs))
        return
    found = layers(workflow, body, inputs, count)
    workflow.ctx.artifacts.append(keep_layers(control, found))
    effective["layers_profile"] = layer_facts(found)


def layers(workflow: Workflow, body: Callable[[Any], None], inputs: List[Any], count: int) -> LayerTable:
    """Profile `count` inferences.

    Raises:
        WorkflowError: the workflow cannot tell its layers, or its profiler told nothing.
    """
    profiler = workflow.layer_profiler()
    walls_ns: List[int] = []
    turn = 0

    def step() -> None:
        nonlocal turn
        item = inputs[turn % len(inputs)]
        turn += 1
        walls_ns.append(measure.once(lambda: body(item)))

    rows = profiler.observe(step, count)
    return table(profiler, rows, walls_ns)


def keep_layers(control: Control, found: LayerTable) -> ArtifactFile:
    """Write the table into the control directory."""
    path = os.path.join(control.directory, LAYERS_FILE)
    write_json(path, to_json(found))
    return ArtifactFile(LAYERS_ARTIFACT, LAYERS_FILE, sha256_file(path), os.path.getsize(path))


def layer_facts(found: LayerTable) -> Dict[str, Any]:
    """What the record keeps beside the table: enough to know whether to open it."""
    by_place: Dict[str, float] = {}
    for layer in found.layers:
        by_place[layer.place] = by_place.get(layer.place, 0.0) + layer.share
    return {
        "source": found.source,
        "clock": found.clock,
        "iterations": found.iterations,
        "rows": len(found.layers),
        "sum_ns": found.sum_ns,
        "wall_ns": found.wall_ns,
        "share_by_place": by_place,
        "notes": found.notes,
    }
