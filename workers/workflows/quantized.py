# SPDX-License-Identifier: Apache-2.0
"""int8 as static Q/DQ: an fp32 ONNX file -> pre-processed -> calibrated -> quantised, each step cached.

Activations are quint8 by default: on x86 CPUs signed symmetric ones run 3 to 6 times slower, slower than fp32.
Weights are signed, one scale per output channel.
"""

import contextlib
import inspect
import json
import os
import shutil
import tempfile
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Sequence

from farm.contract.canonical import short_digest
from farm.contract.job import Calibration
from workers.workflows import calibration as ranges_of
from workers.workflows import datasets
from workers.workflows.archive import working_in
from workers.workflows.base import Context, versions
from workers.workflows.cache import CachedFile
from workers.workflows.errors import PrecisionNotHeld, Unsupported, is_out_of_memory
from workers.workflows.inputs import calibration_batches
from workers.workflows.onnx_files import examine

RECIPE = 1
_TYPES = ("quint8", "qint8")
#: The first opset whose DequantizeLinear takes one scale per channel.
_PER_CHANNEL_OPSET = 13


class Int8Model:
    """The int8 model of one job. `onnx` gives the fp32 file; it is called only when something has to be made.

    `activation_type` and `per_channel` are what the workflow takes where the job has no such option. A runtime that
    wants another graph sets `operators` (those to quantise; None: all that ONNX Runtime can) and `extra_options` of ONNX
    Runtime's quantizer.
    """

    operators: Optional[Sequence[str]] = None
    extra_options: Mapping[str, Any] = {}

    def __init__(
        self,
        ctx: Context,
        onnx_key: Dict[str, Any],
        onnx: Callable[[], CachedFile],
        activation_type: str = "quint8",
        per_channel: bool = True,
    ) -> None:
        self._ctx = ctx
        self._onnx_key = onnx_key
        self._onnx = onnx
        self.calibration = ctx.job.calibration or Calibration()
        self.per_channel = ctx.job.options.get("per_channel", per_channel)
        self.activation_type = ctx.job.options.get("activation_type", activation_type)
        self._seen = 0
        if not isinstance(self.per_channel, bool):
            raise Unsupported("option per_channel is true or false, not {!r}".format(self.per_channel))
        if self.activation_type not in _TYPES:
            raise Unsupported("option activation_type is quint8 or qint8, not {!r}".format(self.activation_type))

    def ranges(self) -> CachedFile:
        """The calibration: a JSON file of tensor -> [low, high]."""
        return self._ctx.cached(
            "calibration",
            self._ranges_key(),
            "ranges.json",
            self._calibrate,
            ready=self._preprocessed,
            upstream_s=lambda: self._preprocessed().total_build_s,
        )

    def preprocessed(self) -> CachedFile:
        """The fp32 file that is calibrated: the ranges are those of its tensors."""
        return self._preprocessed()

    def model(self) -> CachedFile:
        """The int8 file; its facts are those of `onnx_files.examine`."""
        return self._ctx.cached(
            "onnx_int8",
            self._model_key(),
            "model.onnx",
            self._quantize,
            ready=self.ranges,
            upstream_s=lambda: self.ranges().total_build_s,
        )

    def calibration_facts(self) -> Dict[str, Any]:
        """How the ranges were found, for the record."""
        return {
            "method": self.calibration.method,
            "samples": self.calibration.samples,
            "percentile": self.calibration.percentile if self.calibration.method == "percentile" else None,
            "ranges": short_digest(self._ranges_key()),
        }

    def effective(self) -> Dict[str, Any]:
        """How it was quantised."""
        entry = self.model()
        return {
            "calibration": self.calibration_facts(),
            "activation_type": self.activation_type,
            "per_channel": self.per_channel,
            "quantized_nodes": {
                "quantize": entry.facts["quantize"],
                "dequantize": entry.facts["dequantize"],
                "compute": entry.facts["compute"],
                "compute_quantized": entry.facts["compute_quantized"],
                "share": entry.facts["compute_quantized"] / max(entry.facts["compute"], 1),
            },
        }

    def _preprocessed_key(self) -> Dict[str, Any]:
        return {"onnx": self._onnx_key, "versions": versions("onnxruntime", "onnx"), "recipe": RECIPE}

    def _ranges_key(self) -> Dict[str, Any]:
        job, calibration = self._ctx.job, self.calibration
        key: Dict[str, Any] = {
            "preprocessed": self._preprocessed_key(),
            "method": calibration.method,
            "samples": calibration.samples,
            "batch": calibration.batch,
            "data": datasets.identity(job, "train"),
            "versions": versions("numpy"),
            "recipe": ranges_of.RECIPE,
        }
        if calibration.method == "percentile":
            key["percentile"] = calibration.percentile
        if calibration.method == "entropy":
            key["unsigned"] = self.activation_type == "quint8"
        return key

    def _model_key(self) -> Dict[str, Any]:
        own = {"per_channel": self.per_channel, "activation_type": self.activation_type, "recipe": RECIPE}
        if self.operators is not None:
            own.update(operators=list(self.operators), extra_options=dict(self.extra_options))
        return dict(own, calibration=self._ranges_key())

    def _preprocessed(self) -> CachedFile:
        def build(path: str) -> Dict[str, Any]:
            _refuse_unfit(self._onnx().facts, self.per_channel)
            _preprocess(self._onnx().path, path)
            return {}

        return self._ctx.cached(
            "onnx_preprocessed",
            self._preprocessed_key(),
            "model.onnx",
            build,
            ready=self._onnx,
            upstream_s=lambda: self._onnx().total_build_s,
        )

    def _calibrate(self, path: str) -> Dict[str, Any]:
        source, fixed = self._preprocessed(), self._onnx().facts["input_shape"][0]
        with _copied(source.path, path) as work:
            found = ranges_of.find_ranges(
                work, lambda: self._batches(fixed), self.calibration, self.activation_type == "quint8"
            )
        with open(path, "w", encoding="utf-8") as stream:
            json.dump(found, stream, indent=0, sort_keys=True, allow_nan=False)
        return {"tensors": len(found)}

    def _batches(self, fixed: Optional[int]) -> Iterator[Any]:
        for batch in calibration_batches(self._ctx.job, self.calibration, fixed):
            self._seen += len(batch)
            self._ctx.progress(self._seen / (self.calibration.samples * ranges_of.passes(self.calibration)))
            yield batch

    def _quantize(self, path: str) -> Dict[str, Any]:
        with open(self.ranges().path, encoding="utf-8") as stream:
            found = json.load(stream)
        with _copied(self._preprocessed().path, path) as work:
            wanted = self.operators or ranges_of.operators()
            _write_qdq(work, found, path, self.per_channel, self.activation_type, wanted, self.extra_options)
        facts = examine(path)
        if not facts["quantize"] or not facts["dequantize"]:
            raise PrecisionNotHeld("the quantised file holds no QuantizeLinear and DequantizeLinear nodes")
        return facts


def _refuse_unfit(facts: Dict[str, Any], per_channel: bool) -> None:
    if facts["quantize"] or facts["dequantize"] or facts["quantized_operators"]:
        raise Unsupported(
            "the ONNX file is quantised already, and quantising it again is not done",
            "Give the fp32 model; int8 is made from it.",
            "already-quantized",
        )
    if per_channel and facts["opset"] < _PER_CHANNEL_OPSET:
        raise Unsupported(
            "one scale per channel needs opset {}, the ONNX file has {}".format(_PER_CHANNEL_OPSET, facts["opset"]),
            "Export it with a newer opset, or set the option `per_channel: false`.",
            "opset-too-old",
        )


@contextlib.contextmanager
def _copied(source: str, target: str) -> Iterator[str]:
    """A private copy of a cached file beside `target`: ONNX Runtime writes temporary files next to what it reads."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(target)) as directory:
        path = os.path.join(directory, "model.onnx")
        shutil.copyfile(source, path)
        yield path


def _preprocess(source: str, target: str) -> None:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # Where symbolic shape inference fails, it leaves its graph in the working directory.
    with tempfile.TemporaryDirectory(dir=os.path.dirname(target)) as scratch, working_in(scratch):
        try:
            quant_pre_process(source, target)
        except Exception as error:  # a boundary: it fails on some graphs in any way
            if is_out_of_memory(error):
                raise
            quant_pre_process(source, target, skip_symbolic_shape=True)


def _write_qdq(
    source: str,
    ranges: Dict[str, Any],
    target: str,
    per_channel: bool,
    activation_type: str,
    operators: Sequence[str],
    extra_options: Mapping[str, Any],
) -> None:
    from pathlib import Path

    import numpy as np
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import QuantizationMode, load_model_with_shape_infer

    limits = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    wanted = {
        "model": load_model_with_shape_infer(Path(source)),
        "per_channel": per_channel,
        "reduce_range": False,
        "weight_qType": QuantType.QInt8,
        "activation_qType": QuantType.QUInt8 if activation_type == "quint8" else QuantType.QInt8,
        "tensors_range": TensorsData(CalibrationMethod.MinMax, limits),
        "nodes_to_quantize": [],
        "nodes_to_exclude": [],
        "op_types_to_quantize": list(operators),
        "extra_options": dict(extra_options, ActivationSymmetric=activation_type == "qint8"),
    }
    if "static" in inspect.signature(QDQQuantizer.__init__).parameters:  # before 1.18
        wanted.update(mode=QuantizationMode.QLinearOps, static=True)
    quantizer = QDQQuantizer(**wanted)
    quantizer.quantize_model()
    quantizer.model.save_model_to_file(target, False)
