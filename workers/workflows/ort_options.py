# SPDX-License-Identifier: Apache-2.0
"""Options of ONNX Runtime's GPU providers by version, and what does not go together. Pure: versions in, options out.

Read in the sources and the binaries of 1.17.1, 1.20 and 1.31: truth values are `True` and `False`, an unknown option is
an error. `use_tf32` of the CUDA provider came with 1.18; the TensorRT provider has no such option at all.
"""

import re
from dataclasses import dataclass
from typing import Dict, Iterable, Optional, Sequence, Tuple

from workers.workflows.errors import PrecisionNotHeld, Unsupported

Version = Tuple[int, int]

_OLDEST: Version = (1, 17)
_CUDA_TF32: Version = (1, 18)
_NUMPY_2: Version = (1, 19)
_TRUE = ("1", "True", "true")
_ENGINE = re.compile(r"(_fp16)?(_int8)?_sm\d+\+?\.engine$")


@dataclass(frozen=True)
class TrtPlan:
    """What one engine of the TensorRT provider is built for.

    `directory` is where the provider keeps engines, profiles and timings and finds the calibration table named `table`.
    `shape` is the input's with the batch, the profile's only one; None leaves the profile to the first run.
    """

    precision: str
    directory: str
    input: str = ""
    shape: Optional[Sequence[int]] = None
    table: Optional[str] = None
    level: Optional[int] = None
    allow_fp16: bool = False
    dump: bool = False
    cuda_graph: bool = False


def parse(text: str) -> Version:
    """`1.17.1` as (1, 17). Raises Unsupported for text that is no version."""
    parts = text.split(".")
    if len(parts) < 2 or not (parts[0].isdigit() and parts[1].isdigit()):
        raise Unsupported("the version {!r} cannot be read".format(text), None, "onnxruntime-too-old")
    return int(parts[0]), int(parts[1])


def check_versions(onnxruntime: str, numpy: str) -> None:
    """Refuse what is older than the options used here, and a pair that crashes.

    Each is what `base.versions` gives: distributions with their versions, `onnxruntime-gpu 1.17.1`.

    Raises:
        Unsupported: naming both.
    """
    oldest = min(parse(distribution.split()[-1]) for distribution in onnxruntime.split(", "))
    if oldest < _OLDEST:
        raise Unsupported(
            "this stack's {} is older than 1.17, the first with the options that this needs".format(onnxruntime),
            "Use a stack with a newer onnxruntime-gpu.",
            "onnxruntime-too-old",
        )
    if oldest < _NUMPY_2 and parse(numpy.split()[-1]) >= (2, 0):
        raise Unsupported(
            "this stack's {} is built for numpy 1, and it has {}".format(onnxruntime, numpy),
            "Install `numpy<2` into the stack, or onnxruntime-gpu 1.19 or newer.",
            "numpy-too-new",
        )


def check_tensorrt(precision: str, major: int, level: Optional[int]) -> None:
    """Refuse what the provider's TensorRT cannot build. Raises Unsupported."""
    if major >= 11 and precision in ("fp16", "int8"):
        raise Unsupported(
            "TensorRT {} has no {} builder flag and takes no calibration table".format(major, precision),
            "Use an ONNX Runtime that is built for TensorRT 10 or older.",
            "strongly-typed-only",
        )
    if level is not None and not 0 <= level <= 5:
        raise Unsupported("optimization_level is 0 to 5, not {}".format(level), None, "unknown-option")


def cuda_options(onnxruntime: str, precision: str, cuda_graph: bool = False) -> Dict[str, str]:
    """Options of the CUDA provider: TF32 as the precision says, where the version has a switch for it."""
    options = {"device_id": "0"}
    if cuda_graph:
        options["enable_cuda_graph"] = "1"
    if parse(onnxruntime) >= _CUDA_TF32:
        options["use_tf32"] = "1" if precision == "tf32" else "0"
    return options


def trt_options(plan: TrtPlan) -> Dict[str, str]:
    """Options of the TensorRT provider for one engine."""
    options = {
        "device_id": "0",
        "trt_fp16_enable": str(plan.precision == "fp16" or (plan.precision == "int8" and plan.allow_fp16)),
        "trt_int8_enable": str(plan.precision == "int8"),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": plan.directory,
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": plan.directory,
        "trt_dump_subgraphs": str(plan.dump),
    }
    if plan.cuda_graph:
        options["trt_cuda_graph_enable"] = "True"
    if plan.table is not None:
        # False: the table is ONNX Runtime's own; True would be one that TensorRT's calibrator wrote.
        options.update(trt_int8_calibration_table_name=plan.table, trt_int8_use_native_calibration_table="False")
    if plan.level is not None:
        options["trt_builder_optimization_level"] = str(plan.level)
    if plan.shape is not None:
        text = "{}:{}".format(plan.input, "x".join(str(extent) for extent in plan.shape))
        for bound in ("min", "opt", "max"):
            options["trt_profile_{}_shapes".format(bound)] = text
    return options


def held_cuda(options: Dict[str, str], precision: str) -> str:
    """What the CUDA provider's own switch says of TF32, read back. Raises PrecisionNotHeld."""
    found = options.get("use_tf32")
    if found is None:
        return "no switch in this version"
    if (found in _TRUE) != (precision == "tf32"):
        raise PrecisionNotHeld("the CUDA provider has use_tf32={} while {} was asked for".format(found, precision))
    return "use_tf32={}".format(found)


def held_trt(options: Dict[str, str], engines: Iterable[str], plan: TrtPlan) -> str:
    """The precision of an open session, by its options read back and by the names of its engines.

    The provider names an engine after the flags it gave to the builder, once it has dropped what the GPU lacks.

    Raises:
        PrecisionNotHeld: an option or a name is not what was set.
    """
    wanted = trt_options(plan)
    flags = {name: wanted["trt_{}_enable".format(name)] == "True" for name in ("fp16", "int8")}
    for name, on in flags.items():
        found = options.get("trt_{}_enable".format(name))
        if found is None or (found in _TRUE) != on:
            raise PrecisionNotHeld("the TensorRT provider has trt_{}_enable={}".format(name, found))
    for engine in engines:
        match = _ENGINE.search(engine)
        if match is None or [bool(group) for group in match.groups()] != list(flags.values()):
            raise PrecisionNotHeld("the engine {} was not built with the flags {}".format(engine, flags))
    return plan.precision
