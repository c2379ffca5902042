# SPDX-License-Identifier: Apache-2.0
"""Torch-TensorRT 2.2 to 2.14: what a version can do, and the settings that give a precision there.

Read from the sources of 2.2.0, 2.3.0, 2.8.0 to 2.12.1 and 2.14.0. The TorchScript front end has been deprecated since
2.6 and is there where its library is. Its int8 calibrators are gone from 2.9 on. `enabled_precisions` lets TensorRT
choose up to 2.9; from 2.10 on a network runs in the types that it holds, and 2.14 ignores the argument. A module cast
to half is thus fp16 in all of them, and what is left in PyTorch then runs in fp16 too.
"""

import importlib
import importlib.util
import inspect
from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

from workers.workflows.errors import MissingLibrary, PrecisionNotHeld, Unsupported

FRONTENDS = ("dynamo", "ts")
_CALIBRATORS = {"entropy": "IInt8EntropyCalibrator2", "minmax": "IInt8MinMaxCalibrator"}
#: An engine smaller than its weights in fp32 holds some of them in int8: nothing else below 4 bytes was allowed.
_INT8_BYTES_PER_WEIGHT = 4 * 0.98


@dataclass(frozen=True)
class Features:
    """What a Torch-TensorRT can do: the parameters of each front end's `compile` (None: not there)."""

    version: str
    dynamo: Optional[Tuple[str, ...]]
    ts: Optional[Tuple[str, ...]]
    strongly_typed: bool
    calibrators: Tuple[str, ...]

    def parameters(self, frontend: str) -> Tuple[str, ...]:
        """The parameters of a front end's `compile`; none where it is not there."""
        return (self.dynamo if frontend == "dynamo" else self.ts) or ()


@dataclass(frozen=True)
class Settings:
    """How to compile: types by torch's names; `keywords` are passed on as they are."""

    frontend: str
    module_dtype: str
    enabled_precisions: Tuple[str, ...]
    keywords: Dict[str, Any]
    calibrate: bool = False

    def facts(self) -> Dict[str, Any]:
        """As plain JSON, for keys and records."""
        return {
            "frontend": self.frontend,
            "module_dtype": self.module_dtype,
            "enabled_precisions": list(self.enabled_precisions),
            "keywords": self.keywords,
        }


def require_installed() -> None:
    """Raise MissingLibrary where there is no torch_tensorrt, without importing it."""
    if importlib.util.find_spec("torch_tensorrt") is None:
        raise MissingLibrary(
            "this stack has no torch_tensorrt",
            "Install the torch-tensorrt that goes with its torch, or give the job to a stack that has it.",
        )


def import_torch_tensorrt() -> Any:
    """Import it, after torch has found its GPU: 2.2 asks CUDA for the device while it is imported.

    Raises:
        MissingLibrary: it, or a library that it is linked with, is not there or does not fit.
    """
    require_installed()
    try:
        return importlib.import_module("torch_tensorrt")
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingLibrary(
            "torch_tensorrt is installed and cannot be imported: {}".format(str(error).strip() or type(error).__name__),
            "It must fit this stack's torch, CUDA and TensorRT to the minor version; the failure's detail says more.",
        ) from error


def features(torch_tensorrt: Any) -> Features:
    """What an imported torch_tensorrt can do, found by looking."""
    dynamo = _parameters(getattr(torch_tensorrt, "dynamo", None))
    explicit = dynamo.get("use_explicit_typing")
    enabled = getattr(torch_tensorrt, "ENABLED_FEATURES", None)
    ts = getattr(torch_tensorrt, "ts", None) if getattr(enabled, "torchscript_frontend", True) else None
    bound = getattr(torch_tensorrt, "_C", None)
    return Features(
        version=str(torch_tensorrt.__version__),
        dynamo=tuple(dynamo) or None,
        ts=tuple(_parameters(ts)) or None,
        strongly_typed="enabled_precisions" not in dynamo or (explicit is not None and explicit.default is True),
        calibrators=tuple(method for method, name in sorted(_CALIBRATORS.items()) if hasattr(bound, name)),
    )


def _parameters(frontend: Any) -> Dict[str, Any]:
    found = getattr(frontend, "compile", None)
    return dict(inspect.signature(found).parameters) if found else {}


def calibrator_base(torch_tensorrt: Any, method: str) -> Any:
    """The calibrator class behind a method that `check` has let pass."""
    return getattr(torch_tensorrt._C, _CALIBRATORS[method])


def check_asked(frontend: str, precision: str, method: Optional[str]) -> None:
    """Refuse what no version can do. Raises Unsupported."""
    if precision == "int8" and frontend == "dynamo":
        raise Unsupported(
            "the dynamo front end takes int8 from a module with quantizers alone, and this workflow puts none in",
            "Set the option `frontend: ts`, which calibrates (Torch-TensorRT up to 2.8), or use onnx_tensorrt.",
            "precision-unsupported",
        )
    if precision == "int8" and method not in _CALIBRATORS:
        raise Unsupported(
            "TensorRT has no {} calibrator".format(method),
            "Use the calibration method `entropy` or `minmax`.",
            "calibration-unsupported",
        )


def check(able: Features, frontend: str, precision: str, method: Optional[str], options: Dict[str, Any]) -> None:
    """Refuse what this version cannot do. Raises Unsupported."""
    check_asked(frontend, precision, method)
    if not able.parameters(frontend):
        raise Unsupported(
            "Torch-TensorRT {} has no front end {!r}".format(able.version, frontend),
            "Set the option `frontend` to the other of {}.".format(" and ".join(FRONTENDS)),
            "frontend-unsupported",
        )
    if precision == "int8" and method not in able.calibrators:
        raise Unsupported(
            "Torch-TensorRT {} no longer has TensorRT's int8 calibrators".format(able.version),
            "Use a stack with Torch-TensorRT 2.8 or older, or onnx_tensorrt.",
            "precision-unsupported",
        )
    for name in sorted(set(options) & {"optimization_level", "min_block_size", "require_full_compilation"}):
        if options[name] is not None and name not in able.parameters(frontend):
            raise Unsupported(
                "the front end {} of Torch-TensorRT {} has no {}".format(frontend, able.version, name),
                "Leave the option `{}` out.".format(name),
                "option-unsupported",
            )


def settings(able: Features, frontend: str, precision: str, options: Dict[str, Any]) -> Settings:
    """The settings that give a precision, with those of the options that are not None."""
    known = able.parameters(frontend)
    keywords = {name: value for name, value in options.items() if value is not None}
    # On by default in every version, as in TensorRT itself.
    keywords["disable_tf32"] = precision != "tf32"
    for name in ("truncate_double", "truncate_long_and_double"):
        if name in known:
            keywords[name] = True
            break
    if "output_format" in known:  # 2.2 alone; later versions give a graph module always
        keywords["output_format"] = "graph_module"
    dtype = "float16" if precision == "fp16" else "float32"
    precisions: Tuple[str, ...] = (dtype,)
    if frontend == "dynamo" and able.strongly_typed:
        precisions = ("float32",) if "enabled_precisions" in known else ()
        if "use_explicit_typing" in known:
            keywords["use_explicit_typing"] = True
    if precision == "int8":
        # One engine: TensorRT calibrates each engine with the model's own inputs, which only the first one takes.
        precisions, keywords["require_full_compilation"] = ("float32", "int8"), True
    return Settings(frontend, dtype, precisions, keywords, precision == "int8")


def held_precision(held: Dict[str, Any], engine_bytes: int, weights: int, fp32: str) -> str:
    """The precision that engines built with the settings `held` run in; `fp32` is what torch does with fp32 products.

    `weights` is the number of elements of the model's weights, and `engine_bytes` the size of its engines.

    Raises:
        PrecisionNotHeld: int8 was asked for and the weights are all there in fp32, or engines and torch differ.
    """
    if "int8" in held["enabled_precisions"]:
        if engine_bytes >= _INT8_BYTES_PER_WEIGHT * weights:
            raise PrecisionNotHeld(
                "the int8 engine has {} bytes for {} weights: none is in int8".format(engine_bytes, weights),
                "The builder found fp32 faster, or no int8 kernel for this model: measure it in fp32.",
            )
        return "int8"
    if held["module_dtype"] == "float16":
        return "fp16"
    engines = "fp32" if held["keywords"]["disable_tf32"] else "tf32"
    if engines != fp32:
        raise PrecisionNotHeld("the engines run in {} and what PyTorch runs in {}".format(engines, fp32))
    return engines
