# SPDX-License-Identifier: Apache-2.0
"""Time per layer inside of the engine that ONNX Runtime's TensorRT provider runs: one node of its profile.

The very file that the provider loaded is loaded once more, by TensorRT itself, in an execution context of its own.
"""

import glob
import os
from typing import Any, List, Sequence

from farm.contract.layers import BETWEEN, TENSORRT
from workers.workflows.base import require
from workers.workflows.errors import WorkflowError
from workers.workflows.layers import Observed, Step
from workers.workflows.ort_layers import Node, OrtLayers
from workers.workflows.trt_compat import Engine, Log
from workers.workflows.trt_lane import TrtLane
from workers.workflows.trt_layers import TrtLayers
from workers.workflows.trt_memory import open_memory


class OrtTrtLayers(OrtLayers):
    """`directory` holds the provider's engines, verified; `host_input` is an input of the model."""

    source = "ONNX Runtime profile, TensorRT IProfiler"
    clock = "device"

    def __init__(self, session: Any, nodes: Sequence[Node], directory: str, host_input: Any) -> None:
        super().__init__(session, nodes)
        self._engines = sorted(glob.glob(os.path.join(directory, "*.engine")))
        self._host_input = host_input

    def observe(self, step: Step, count: int) -> List[Observed]:
        """The nodes; the one node that is an engine is replaced by the engine's layers and what is around it."""
        rows = super().observe(step, count)
        parts = [row for row in rows if row.place == TENSORRT]
        if len(parts) != 1 or len(self._engines) != 1:
            told = "{} engines in {} nodes".format(len(self._engines), len(parts))
            self.notes.append(told + ": each is one row, since inputs from other providers would have to be made up")
            return rows
        try:
            layers = self._layers(count)
        except WorkflowError as error:
            self.notes.append("the engine could not be taken apart: {}".format(error.message))
            return rows
        at = rows.index(parts[0])
        return [*rows[:at], *layers, around(parts[0], layers), *rows[at + 1 :]]

    def _layers(self, count: int) -> List[Observed]:
        trt, memory = require("tensorrt"), open_memory()
        with open(self._engines[0], "rb") as stream:
            content = stream.read()
        engine = Engine(trt, content, Log(trt), self._host_input.shape)
        lane = TrtLane(engine, memory, False)
        try:
            placed = lane.to_device(self._host_input)

            def step() -> None:
                lane.infer(placed)
                lane.synchronize()

            profiler = TrtLayers(engine, engine.information())
            for _ in range(count):
                step()
            found = profiler.observe(step, count)
        finally:
            lane.close()
        self.notes.append("layers inside of the engine: its file, run once more by TensorRT itself")
        self.notes.extend(profiler.notes)
        return found


def around(node: Observed, layers: Sequence[Observed]) -> Observed:
    """What the provider's node took beside the layers of its engine. Pure."""
    inside = [sum(times) for times in zip(*(layer.times_ns for layer in layers))]
    left = [max(whole - part, 0.0) for whole, part in zip(node.times_ns, inside)]
    return Observed("(provider around its engine)", "host", BETWEEN, calls=node.calls, times_ns=left)
