# SPDX-License-Identifier: Apache-2.0
"""ONNX to TensorRT: parser, builder, engine; named tensors, pinned buffers and one stream.

Engines are built in prepare. Measuring loads one whose digest was recorded and needs neither torch nor onnx.
"""

import os
import threading
from typing import Any, Dict, List, Optional, Tuple

from farm.contract.canonical import sha256_file
from farm.contract.codec import to_json
from farm.contract.run import ArtifactFile, Mismatch
from workers.workflows import cuda_graph
from workers.workflows.base import Context, DeviceTimer, Lane, Workflow, require
from workers.workflows.cache import recorded_bytes
from workers.workflows.layers import LayerProfiler
from workers.workflows.onnx_files import check_batch
from workers.workflows.trt_compat import Engine, Log, features
from workers.workflows.trt_engine import Engines
from workers.workflows.trt_graph import TypedGraph
from workers.workflows.trt_inspect import held_precision, tactics_sha256, tensor_formats
from workers.workflows.trt_lane import TrtGraphLane, TrtLane
from workers.workflows.trt_layers import TrtLayers
from workers.workflows.trt_memory import open_memory

_INSPECTOR_FILE = "inspector.json"


class OnnxTensorRT(Workflow):
    """One engine; one context on one stream with one input in flight, or as many as there are lanes."""

    def __init__(self, ctx: Context, source: Any = None) -> None:
        super().__init__(ctx)
        self._source = source or TypedGraph(ctx)
        self._engines = Engines(ctx, self._source)
        self._entry: Any = None
        self._content = b""
        self._trt: Any = None
        self._memory: Any = None
        self._engine: Any = None
        self._cuda_graph = cuda_graph.asked(ctx.job.options)
        self._lane: Any = None
        self._lanes: List[TrtLane] = []
        self._formats: Dict[str, int] = {}

    def setup(self) -> None:
        """Import TensorRT, refuse what it cannot do, make the CUDA context; without a GPU this is where it shows."""
        if not self.ctx.preparing:
            require("numpy")
            self._trt = require("tensorrt")
            self._engines.check(self._trt)
            self._memory = open_memory()

    def prepare(self) -> None:
        """Make the ONNX file, for int8 its Q/DQ nodes or TensorRT's calibration table, the engines, the references."""
        with self.ctx.stage("load_model"):
            self._source.load_model()
        with self.ctx.stage("export"):
            self._source.export()
        if self._source.explicit:
            with self.ctx.stage("calibrate"):
                self._source.onnx()
        elif self._engines.needs_calibration():
            with self.ctx.stage("calibrate"):
                self._engines.calibration()
        with self.ctx.stage("build"):
            self.build()
        with self.ctx.stage("reference"):
            self._source.prepare_reference()

    def build(self) -> None:
        """Build every engine."""
        self._engines.build_all()

    def find(self) -> None:
        """The engine, read and held against its recorded digest."""
        check_batch(self._source.onnx().facts, self.ctx.batch_size)
        self._entry = self._engines.engine(self.ctx.batch_size)
        self._content = recorded_bytes(self._entry)

    def load(self) -> None:
        """Deserialise the engine, make its context; but for lanes, which have their own, allocate and bind outputs."""
        shape = (self.ctx.batch_size, *self.ctx.job.model.input_shape)
        self._engine = Engine(self._trt, self._content, Log(self._trt), shape)
        self._content = b""
        if self.ctx.job.protocol.scenario != "streams":
            self._lane = self._new_lane(self._engine, self._memory)

    def _new_lane(self, engine: Engine, memory: Any, turns: Any = None) -> TrtLane:
        kind = TrtGraphLane if self._cuda_graph else TrtLane
        self._lanes.append(kind(engine, memory, self.ctx.job.protocol.boundary == "end_to_end", turns))
        return self._lanes[-1]

    def lanes(self, count: int) -> List[Lane]:
        """An execution context and buffers for each; before TensorRT 10 a profile for each, too.

        Contexts take the protocol's streams in turn; where there are as many, each has one of its own.
        """
        streams = self.ctx.job.protocol.streams
        turns = [threading.Lock() for _ in range(streams)] if count > streams else [None] * streams
        made: List[Lane] = []
        memories: List[Any] = []
        for number in range(count):
            turn = number % streams
            memories.append(self._memory.fork(memories[turn]) if number >= streams else self._memory.fork())
            engine = self._engine.fork(number, memories[-1].stream) if number else self._engine
            made.append(self._new_lane(engine, memories[-1], turns[turn]))
        return made

    def to_device(self, host_input: Any) -> Any:
        """Copy the input to device memory of its own; with `end_to_end` always to the same, through pinned memory."""
        return self._lane.to_device(host_input)

    def infer(self, batch: Any) -> None:
        """Put one inference on the stream."""
        self._lane.infer(batch)

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._memory.synchronize()

    def device_timer(self) -> Optional[DeviceTimer]:
        """CUDA events on the one stream."""
        found: Optional[DeviceTimer] = self._memory.timer()
        return found

    def layer_profiler(self) -> LayerProfiler:
        """TensorRT's own profiler on the execution context, with what the inspector tells of each layer."""
        return TrtLayers(self._engine, self._engine.information())

    def outputs(self) -> List[Tuple[str, Any]]:
        """Copies of the last inference's outputs."""
        found: List[Tuple[str, Any]] = self._lane.outputs()
        return found

    def ran(self) -> Dict[str, Any]:
        """Whether CUDA graphs were launched, where they were asked for."""
        if not self._cuda_graph:
            return {}
        nodes = [count for lane in self._lanes for count in lane.graph_facts()]
        inputs = cuda_graph.ONE_MEMORY if self.ctx.job.protocol.boundary == "end_to_end" else cuda_graph.EACH_INPUT
        why = "instantiated by the CUDA driver and launched by each inference"
        return {"cuda_graph": dict(cuda_graph.facts(len(nodes), inputs, why), nodes=sorted(set(nodes)))}

    def compare(self, outputs: List[Tuple[str, Any]]) -> List[Mismatch]:
        """Against the source's reference, in its order of outputs; nothing where this stack can make none."""
        order = self._source.onnx().facts["outputs"]
        found: List[Mismatch] = self._source.compare(sorted(outputs, key=lambda pair: order.index(pair[0])))
        return found

    def effective(self) -> Dict[str, Any]:
        """The precision from the builder's flags and, where the inspector tells them, the formats between layers."""
        flags, text = self._entry.facts["flags"], self._inspect()
        formats = tensor_formats(text)
        held = {
            "precision": held_precision(flags, formats, self._source.onnx().facts, self._engines.strong(self._trt)),
            "typing": "strong" if self._engines.strong(self._trt) else "weak",
            "threads": self.ctx.threads,
            "provider": "tensorrt",
            "device": "cuda:0",
            "tensorrt": self._trt.__version__,
            "tensorrt_features": features(self._trt),
            "builder_flags": flags,
            "layer_formats": formats,
            "layers": self._engine.layers(),
            "tactics_sha256": tactics_sha256(text),
            "engine_sha256": self._entry.sha256,
            "engine_build_s": self._entry.build_s,
            "engine_instead_of": self._entry.facts.get("instead_of"),
            "profile": self._entry.facts["profile"],
            "profiles": self._engine.profiles,
            "contexts": self.ctx.job.protocol.in_flight,
            "optimization_level": self._engines.level,
            "allow_fp16": self._engines.allow_fp16,
            "timing_cache_bytes_before": self._entry.facts["timing_cache_bytes_before"],
            "memory_library": self._memory.name,
            "reference": self._source.reference_name,
        }
        if self._source.no_reference:
            held["reference_reason"] = self._source.no_reference
        if self.ctx.job.rebuild is not None:
            held["rebuild"] = to_json(self.ctx.job.rebuild)
        return dict(held, **self._source.effective())

    def cache_bytes(self) -> Optional[int]:
        """The GPU's level-2 cache."""
        return int(self._memory.cache_bytes())

    def metrics(self) -> Dict[str, float]:
        """What each context takes on the device."""
        return {"context_memory_bytes": float(self._engine.context_bytes)}

    def engine_bytes(self) -> int:
        """Size of the engine's file."""
        return int(self._entry.size_bytes)

    def build_s(self) -> Optional[float]:
        """Export, calibration and build of that engine, when they were done."""
        return float(self._entry.total_build_s)

    def close(self) -> None:
        """Free the engine before the memory that it is bound to."""
        for lane in self._lanes:
            lane.let_go()
        self._engine = self._lane = None
        self._lanes.clear()
        self._engines.close()
        if self._memory is not None:
            self._memory.close()

    def _inspect(self) -> str:
        """The inspector's description; it is kept as an artifact."""
        path = os.path.join(self.ctx.control_dir, _INSPECTOR_FILE)
        text = self._engine.information()
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        self.ctx.artifacts.append(
            ArtifactFile("engine_inspector", _INSPECTOR_FILE, sha256_file(path), os.path.getsize(path))
        )
        return text
