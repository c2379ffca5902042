# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's TensorRT provider: engines built in prepare, one for each batch; int8 by a calibration table.

The CUDA provider takes what TensorRT leaves. TF32 is on by default and the provider has no switch for it, so the
environment turns it off.
"""

import json
import os
import shutil
from dataclasses import replace
from typing import Any, Dict, List, Optional

from farm.contract.canonical import digest
from farm.contract.codec import to_json
from workers.workflows import inputs, onnx_session, ort_options, ort_providers, ort_table
from workers.workflows.base import Context, Lane, versions
from workers.workflows.cache import CachedFile
from workers.workflows.layers import LayerProfiler
from workers.workflows.onnx_files import check_batch
from workers.workflows.onnx_source import assert_fp32
from workers.workflows.onnxruntime_gpu import OnnxRuntimeGpu
from workers.workflows.ort_engines import Engines, assert_nothing_new, providers
from workers.workflows.ort_layers import model_nodes
from workers.workflows.ort_trt_layers import OrtTrtLayers

_ENGINE = ".engine"


class OnnxRuntimeTrt(OnnxRuntimeGpu):
    """One session whose engine comes from the farm's cache."""

    provider = ort_providers.TENSORRT
    #: A table holds one symmetric range for a tensor; weights are TensorRT's own affair.
    activation_type = "qint8"
    per_channel = False

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self._tensorrt = ""
        self._engines: Any = None
        self._directory = os.path.join(ctx.control_dir, "ort_engine")
        self._plan: Any = None

    def setup(self) -> None:
        """As every GPU provider; then refuse what the provider's TensorRT cannot build."""
        super().setup()
        major, self._tensorrt = ort_providers.linked_tensorrt(self._ort)
        level = self.ctx.job.options.get("optimization_level")
        ort_options.check_tensorrt(self.ctx.job.precision, major, level)
        self._engines = Engines(self.ctx, self._tensorrt, lambda: self._source.onnx().facts, self._file, self._table)

    def find(self) -> None:
        """The engine's archive, unpacked and held against the recorded digests."""
        assert_fp32(self._source.onnx().facts)
        check_batch(self._source.onnx().facts, self.ctx.batch_size)
        self._engine = self._engines.engine(self.ctx.batch_size)
        self._engines.unpack(self._engine, self._directory)
        explicit = self._engine.facts["explicit_profile"]
        plan = self._engines.plan(self.ctx.batch_size, self._directory, explicit)
        self._plan = replace(plan, cuda_graph=self._cuda_graph)

    def load(self) -> None:
        """Open the session, which loads the engine, and hold it to having built none."""
        self._session = self._opened(self._open)
        assert_nothing_new(self._directory, self._engine.facts["files"])

    def lanes(self, count: int) -> List[Lane]:
        """As every GPU provider, with a session for each: within one, a single thread at a time may use its engine.

        Fewer `sessions` make requests wait for one another inside of the provider.
        """
        found = super().lanes(count)
        assert_nothing_new(self._directory, self._engine.facts["files"])
        return found

    def _sessions(self, lanes: int) -> int:
        return self.ctx.job.protocol.sessions or lanes

    def _open(self) -> Any:
        path, threads = self._file().path, self.ctx.threads
        session = onnx_session.open_session(path, threads, providers(self._plan), self._profile_prefix)
        if self._plan.shape is None:
            self._load_by_a_run(session)
        return session

    def _load_by_a_run(self, session: Any) -> None:
        """Without a profile beforehand, the provider looks for its engines when the first input comes."""
        bound = onnx_session.Bound(session, inputs.blank(self.ctx.job.model, self.ctx.batch_size), "cuda")
        session.run_with_iobinding(bound.binding)

    def _wait_for_kernels(self) -> None:
        """The provider waits for its engine itself: launches that wait would only slow the engine's own kernels."""

    def layer_profiler(self) -> LayerProfiler:
        """The session's own profile, and inside of the engine TensorRT's."""
        nodes, host = model_nodes(self._file().path), self.host_inputs(1)[0]
        return OrtTrtLayers(self._session, nodes, self._directory, host)

    def effective(self) -> Dict[str, Any]:
        """As every GPU provider, with the engine's facts."""
        facts = self._engine.facts
        found = dict(
            super().effective(),
            tensorrt=self._tensorrt,
            profile=[self.ctx.batch_size] * 3,
            explicit_profile=facts["explicit_profile"],
            tensorrt_subgraphs=facts["placement"]["fused"],
            optimization_level=self._engines.level,
            allow_fp16=self._engines.allow_fp16,
            timing_cache_bytes_before=facts["timing_cache_bytes_before"],
            engine_sha256=digest({name: sha256 for name, sha256 in facts["files"].items() if name.endswith(_ENGINE)}),
        )
        if self.ctx.job.rebuild is not None:
            found["rebuild"] = to_json(self.ctx.job.rebuild)
        if self._int8 is not None:
            found.update(calibration=self._int8.calibration_facts(), calibration_table=facts["table"])
        return found

    def ran(self) -> Dict[str, Any]:
        """As every GPU provider, with the number of sessions."""
        return dict({"sessions": 1}, **super().ran())

    def metrics(self) -> Dict[str, float]:
        """As every GPU provider. Raises NotPrepared where an engine was built after all, between two samples."""
        assert_nothing_new(self._directory, self._engine.facts["files"])
        return super().metrics()

    def engine_bytes(self) -> int:
        """Size of the engines that were loaded, without profiles and timings."""
        return int(self._engine.facts["engine_bytes"])

    def close(self) -> None:
        """Free the session, and the unpacked engines."""
        super().close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def build_s(self) -> Optional[float]:
        """Export, calibration and build of that engine, when they were done."""
        return float(self._engine.total_build_s)

    def _build(self) -> None:
        """Write the table and build every engine."""
        self._table()
        self._engines.build_all()

    def _file(self) -> CachedFile:
        """int8 runs the file that was calibrated, whose tensors the table names; all else the fp32 file."""
        if self._int8 is not None:
            return self._int8.preprocessed()
        found: CachedFile = self._source.onnx()
        return found

    def _table(self) -> Optional[CachedFile]:
        """The calibration table; None where the precision takes none."""
        if self._int8 is None:
            return None
        ranges = self._int8.ranges()

        def write(path: str) -> Dict[str, Any]:
            with open(ranges.path, encoding="utf-8") as stream:
                return {"tensors": ort_table.write(json.load(stream), path)}

        key = {"ranges": ranges.sha256, "versions": versions("onnxruntime"), "recipe": ort_table.RECIPE}
        return self.ctx.cached("ort_table", key, ort_table.NAME, write, upstream_s=lambda: ranges.total_build_s)

    def _placement(self) -> Dict[str, Any]:
        return dict(self._engine.facts["placement"])

    def _held_precision(self, options: Dict[str, Dict[str, str]]) -> str:
        engines = [name for name in self._engine.facts["files"] if name.endswith(_ENGINE)]
        return ort_options.held_trt(options[self.provider], engines, self._plan)
