# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's CPU provider with I/O binding: fp32, and int8 as static Q/DQ.

Measuring imports neither torch nor onnx: what is in the file was counted when it was made, and its sha256 is checked.
"""

from typing import Any, Dict, List, Optional, Tuple

from farm.contract.run import Mismatch
from workers.workflows.base import Context, Workflow, require
from workers.workflows.cache import CachedFile
from workers.workflows.errors import PrecisionNotHeld
from workers.workflows.onnx_files import check_batch
from workers.workflows.onnx_session import Bound, open_session
from workers.workflows.onnx_source import assert_fp32, optional_total_s, source_of
from workers.workflows.quantized import Int8Model


class OnnxRuntimeCpu(Workflow):
    """One session, one input in flight, inputs and outputs bound before the clock starts."""

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self._source = source_of(ctx)
        self._int8: Optional[Int8Model] = None
        if ctx.job.precision == "int8":
            self._int8 = Int8Model(ctx, self._source.key(), self._source.onnx)
        self._engine: Any = None
        self._session: Any = None
        self._last: Any = None

    def setup(self) -> None:
        """Import what loading needs."""
        if not self.ctx.preparing:
            require("numpy")
            require("onnxruntime")

    def prepare(self) -> None:
        """Make the ONNX file, for int8 its ranges and the quantised file, and the references."""
        with self.ctx.stage("load_model"):
            self._source.load_model()
        with self.ctx.stage("export"):
            self._source.onnx()
        if self._int8 is not None:
            with self.ctx.stage("calibrate"):
                self._int8.ranges()
            with self.ctx.stage("build"):
                self._int8.model()
        with self.ctx.stage("reference"):
            self._source.prepare_reference()

    def find(self) -> None:
        """The file to run: its digest, precision and batch are as asked."""
        engine: CachedFile = self._int8.model() if self._int8 else self._source.onnx()
        if self._int8 is None:
            assert_fp32(engine.facts)
        elif not engine.facts["quantize"] or not engine.facts["dequantize"]:
            raise PrecisionNotHeld("the file to run in int8 holds no QuantizeLinear and DequantizeLinear nodes")
        check_batch(engine.facts, self.ctx.batch_size)
        self._engine = engine

    def load(self) -> None:
        """Open the session."""
        self._session = open_session(self._engine.path, self.ctx.threads)

    def to_device(self, host_input: Any) -> Any:
        """Bind the input, and outputs of its batch size."""
        return Bound(self._session, host_input)

    def infer(self, batch: Any) -> None:
        """Run the session; on the CPU it is done when it returns."""
        self._session.run_with_iobinding(batch.binding)
        self._last = batch

    def outputs(self) -> List[Tuple[str, Any]]:
        """Copies of the last inference's outputs."""
        found: List[Tuple[str, Any]] = self._last.outputs(self._session)
        return found

    def compare(self, outputs: List[Tuple[str, Any]]) -> List[Mismatch]:
        """Against PyTorch fp32, or ONNX Runtime fp32 on the original for a model given as a file."""
        found: List[Mismatch] = self._source.compare(outputs)
        return found

    def effective(self) -> Dict[str, Any]:
        """The provider and threads are read from the session, the precision from the file's nodes."""
        facts = self._engine.facts
        held = {
            "precision": "int8" if facts["quantize"] and facts["dequantize"] else "fp32",
            "threads": self._session.get_session_options().intra_op_num_threads,
            "provider": self._session.get_providers()[0],
            "device": "cpu",
            "opset": facts["opset"],
            "graph_optimization": "all",
            "reference": self._source.reference_name,
        }
        return dict(held, **self._int8.effective()) if self._int8 else held

    def engine_bytes(self) -> int:
        """Size of the ONNX file that runs."""
        return int(self._engine.size_bytes)

    def build_s(self) -> Optional[float]:
        """Export, pre-processing, calibration and quantisation of that file, when they were done."""
        return optional_total_s(self._engine)

    def close(self) -> None:
        """Free the session."""
        self._last = self._session = None
