# SPDX-License-Identifier: Apache-2.0
"""What workflows that run the farm's ONNX files have in common: which file, how it is made, what it is held against."""

from typing import Any, List, Optional, Tuple

from farm.contract.run import Mismatch
from workers.workflows.base import Context, Workflow
from workers.workflows.cache import CachedFile
from workers.workflows.errors import PrecisionNotHeld
from workers.workflows.onnx_files import check_batch
from workers.workflows.onnx_source import assert_fp32, optional_total_s, source_of
from workers.workflows.quantized import Int8Model


class OnnxWorkflow(Workflow):
    """fp32 runs the file as exported or given, int8 its Q/DQ version. After `find`, `_engine` is that file."""

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self._source = source_of(ctx)
        self._int8: Optional[Int8Model] = None
        if ctx.job.precision == "int8":
            self._int8 = Int8Model(ctx, self._source.key(), self._source.onnx)
        self._engine: Any = None

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

    def compare(self, outputs: List[Tuple[str, Any]]) -> List[Mismatch]:
        """Against PyTorch fp32, or ONNX Runtime fp32 on the original for a model given as a file."""
        found: List[Mismatch] = self._source.compare(outputs)
        return found

    def engine_bytes(self) -> int:
        """Size of the ONNX file that runs."""
        return int(self._engine.size_bytes)

    def build_s(self) -> Optional[float]:
        """Export, pre-processing, calibration and quantisation of that file, when they were done."""
        return optional_total_s(self._engine)
