# SPDX-License-Identifier: Apache-2.0
"""The graph that TensorRT is given: the fp32 file, one converted to fp16, or one with Q/DQ nodes.

TensorRT up to 10 can choose fp16 and int8 kernels for an fp32 graph (flags, calibrators). A strongly typed network, which
is all that TensorRT 11 has, runs the types that stand in the graph: then the farm writes them there.
"""

from typing import Any, Dict, List, Optional, Tuple

from farm.contract.job import JobSpec
from farm.contract.run import Mismatch
from workers.workflows.base import Context, require
from workers.workflows.cache import CachedFile
from workers.workflows.errors import Unsupported
from workers.workflows.onnx_half import HalfModel, assert_fp16
from workers.workflows.onnx_source import GivenModel
from workers.workflows.quantized import Int8Model
from workers.workflows.trt_compat import features
from workers.workflows.trt_source import source_of

#: What TensorRT runs in int8. Of the other operators it fuses what it can, and moves Q/DQ nodes past the rest.
_QUANTIZED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def strongly_typed(job: JobSpec, able: Dict[str, Any]) -> bool:
    """Whether the network is strongly typed: asked for, or the only kind that this TensorRT has. Pure.

    Raises:
        Unsupported: it was asked for, and this TensorRT or the job does not go with it.
    """
    asked = job.options.get("typing", "weak") == "strong"
    if asked and not able["strong_typing"]:
        raise Unsupported(
            "TensorRT {} has no strongly typed networks".format(able["tensorrt"]),
            "Leave the option `typing` out, or use a stack with TensorRT 10 or later.",
            "tensorrt-too-old",
        )
    strong = asked or bool(able["strongly_typed_only"])
    if strong and job.options.get("allow_fp16", False):
        raise Unsupported(
            "allow_fp16 lets TensorRT choose fp16 kernels, and a strongly typed network leaves it no choice",
            "Leave the option `allow_fp16` out, or use TensorRT 10 or older with `typing: weak`.",
            "strongly-typed-only",
        )
    return strong


class TypedGraph:
    """A source of ONNX files (`trt_source`) as TensorRT gets it for the job's precision."""

    def __init__(self, ctx: Context) -> None:
        self._ctx, self._source = ctx, source_of(ctx)
        self._half: Optional[HalfModel] = None
        self._int8: Optional[TensorRTInt8] = None
        self.explicit = ctx.job.precision == "int8" and ctx.job.options.get("quantization", "implicit") == "explicit"

    @property
    def reference_name(self) -> Optional[str]:
        """As the source has it."""
        return self._source.reference_name  # type: ignore[no-any-return]

    @property
    def no_reference(self) -> Optional[str]:
        """As the source has it."""
        return self._source.no_reference  # type: ignore[no-any-return]

    def load_model(self) -> None:
        """As the source does."""
        self._source.load_model()

    def export(self) -> None:
        """Make the file, but for the Q/DQ nodes that calibration brings."""
        self._source.onnx()
        if not self.explicit:
            self.onnx()

    def onnx(self) -> CachedFile:
        """The file to parse.

        Raises:
            Unsupported: the model cannot be converted or quantised.
            PrecisionNotHeld: the converted file is not what it was made to be.
        """
        if self.explicit:
            return self._quantized()
        # Only fp16 depends on the TensorRT that is there, which importing it tells.
        if self._ctx.job.precision == "fp16" and strongly_typed(self._ctx.job, features(require("tensorrt"))):
            self._half = self._half or HalfModel(self._ctx, self._float_source())
            made = self._half.model()
            assert_fp16(made.facts)
            return made
        found: CachedFile = self._source.onnx()
        return found

    def effective(self) -> Dict[str, Any]:
        """How the graph was quantised, if it was; how int8 came about."""
        if self._ctx.job.precision != "int8":
            return {}
        if self._int8 is not None:
            return dict(self._int8.effective(), quantization="explicit")
        return {"quantization": "explicit" if self.onnx().facts["quantize"] else "implicit"}

    def prepare_reference(self) -> None:
        """Of the fp32 file."""
        self._source.prepare_reference()

    def compare(self, outputs: List[Tuple[str, Any]]) -> List[Mismatch]:
        """Against that reference."""
        found: List[Mismatch] = self._source.compare(outputs)
        return found

    def _quantized(self) -> CachedFile:
        """The Q/DQ file; one that was given with Q/DQ nodes stays as it is."""
        given: CachedFile = self._source.onnx()
        if given.facts["quantize"]:
            return given
        if self._int8 is None:
            source = self._float_source()
            self._int8 = TensorRTInt8(self._ctx, source.key(), source.onnx)
        return self._int8.model()

    def _float_source(self) -> Any:
        """The source of an fp32 file that `onnx` has looked at, which TensorRT's parser does not replace here."""
        return GivenModel(self._ctx) if self._ctx.job.model.source == "onnx" else self._source


class TensorRTInt8(Int8Model):
    """A Q/DQ graph as TensorRT takes it.

    Signed and symmetric; both nodes behind fp32 weights, since TensorRT 8 takes no int8 constants; biases stay fp32,
    since it takes no int32 ones. Nodes stand before the operators that run in int8 and not behind them, so that what
    follows a convolution (an activation, an addition) can be fused with it.
    """

    operators = _QUANTIZED
    extra_options = {
        "AddQDQPairToWeight": True,
        "QuantizeBias": False,
        "OpTypesToExcludeOutputQuantization": list(_QUANTIZED),
    }

    def __init__(self, ctx: Context, onnx_key: Dict[str, Any], onnx: Any) -> None:
        super().__init__(ctx, onnx_key, onnx, activation_type="qint8")
