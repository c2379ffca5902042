# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's ModelOpt, the successor of pytorch-quantization: quantizers are put into the layers of a model."""

import contextlib
import copy
from typing import Any, Iterator

from workers.workflows.base import require


def quantizer_class() -> Any:
    """The class of its quantizers. Raises MissingLibrary, also for the packages that its import needs unsaid."""
    require("modelopt.torch.quantization")
    from modelopt.torch.quantization.nn import TensorQuantizer

    return TensorQuantizer


def insert(module: Any, per_channel: bool, histogram: bool) -> Any:
    """Put quantizers into `module`, in place, where its int8 recipe has them, not calibrated yet."""
    quantizer = quantizer_class()
    import modelopt.torch.quantization as mtq

    recipe = dict(copy.deepcopy(mtq.INT8_DEFAULT_CFG), algorithm=None)
    made = mtq.quantize(module, recipe)
    for name, part in made.named_modules():
        if not isinstance(part, quantizer) or part._disabled:
            continue
        if name.endswith("weight_quantizer"):
            part.axis = 0 if per_channel else None
        elif histogram:
            part.set_from_attribute_config({"calibrator": "histogram"})
    return made


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """Its quantizers write Q/DQ nodes by themselves."""
    yield
