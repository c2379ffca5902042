# SPDX-License-Identifier: Apache-2.0
"""What workflows that run the farm's ONNX files have in common: which file, how it is made, what it is held against."""

from typing import Any, List, Optional, Tuple

from farm.contract.run import Mismatch
from workers.workflows.base import Context, Workflow
from workers.workflows.cache import CachedFile
from workers.workflows.errors import PrecisionNotHeld
from workers.workflows.onnx_files import check_batch
from workers.workflows.onnx_half import HalfModel, assert_fp16
from workers.workflows.onnx_source import assert_fp32, optional_total_s, source_of
from workers.workflows.quantized import Int8Model


class OnnxWorkflow(Workflow):
    """fp32 and tf32 run the file as exported or given, fp16 its converted version, int8 its Q/DQ version.

    After `find`, `_engine` is that file. `activation_type` and `per_channel` are what int8 means without options.
    """

    activation_type = "quint8"
    per_channel = True

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self._source = source_of(ctx)
        self._half: Optional[HalfModel] = None
        self._int8: Optional[Int8Model] = None
        if ctx.job.precision == "fp16":
            self._half = HalfModel(ctx, self._source)
        if ctx.job.precision == "int8":
            self._int8 = Int8Model(ctx, self._source.key(), self._source.onnx, self.activation_type, self.per_channel)
        self._engine: Any = None

    def prepare(self) -> None:
        """Make the ONNX file, for int8 its ranges, what is built from it, and the references."""
        with self.ctx.stage("load_model"):
            self._source.load_model()
        with self.ctx.stage("export"):
            self._source.onnx()
        if self._int8 is not None:
            with self.ctx.stage("calibrate"):
                self._int8.ranges()
        if self._builds():
            with self.ctx.stage("build"):
                self._build()
        with self.ctx.stage("reference"):
            self._source.prepare_reference()

    def find(self) -> None:
        """The file to run: its digest, precision and batch are as asked."""
        engine = self._file()
        if self._int8 is not None:
            if not engine.facts["quantize"] or not engine.facts["dequantize"]:
                raise PrecisionNotHeld("the file to run in int8 holds no QuantizeLinear and DequantizeLinear nodes")
        elif self._half is not None:
            assert_fp16(engine.facts)
        else:
            assert_fp32(engine.facts)
        check_batch(engine.facts, self.ctx.batch_size)
        self._engine = engine

    def _builds(self) -> bool:
        """Whether something has to be made of the ONNX file before it runs."""
        return self._int8 is not None or self._half is not None

    def _build(self) -> None:
        """Make it."""
        self._file()

    def _file(self) -> CachedFile:
        """The file in the precision of the job."""
        if self._int8 is not None:
            return self._int8.model()
        if self._half is not None:
            return self._half.model()
        found: CachedFile = self._source.onnx()
        return found

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
