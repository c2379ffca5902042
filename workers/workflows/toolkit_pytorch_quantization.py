# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's pytorch-quantization, the toolkit of the TensorRT 8 years: layers are exchanged for quantised ones."""

import contextlib
import inspect
from typing import Any, Iterator

from workers.workflows.base import require

#: The classes of torch.nn among those that the library itself replaces by default and that image classifiers have.
_LAYERS = ("Conv2d", "Linear", "AvgPool2d", "AdaptiveAvgPool2d")


def quantizer_class() -> Any:
    """The class of its quantizers. Raises MissingLibrary."""
    require("pytorch_quantization")
    from absl import logging
    from pytorch_quantization.nn import TensorQuantizer

    logging.set_verbosity(logging.ERROR)  # else a warning for each quantizer and each switch of it
    return TensorQuantizer


def insert(module: Any, per_channel: bool, histogram: bool) -> Any:
    """Exchange layers of `module`, in place, for those with quantizers of inputs and weights, not calibrated yet."""
    import torch

    quantizer_class()
    from pytorch_quantization import nn as quantized
    from pytorch_quantization.tensor_quant import QuantDescriptor

    described = {
        "quant_desc_input": QuantDescriptor(num_bits=8, calib_method="histogram" if histogram else "max"),
        "quant_desc_weight": QuantDescriptor(num_bits=8, axis=(0,) if per_channel else None),
    }
    for name, layer in list(module.named_modules()):
        # Exact classes only: attention takes the weights of its own subclass of Linear past its forward.
        kind = type(layer).__name__
        if kind in _LAYERS and type(layer) is getattr(torch.nn, kind) and name:
            parent, _, attribute = name.rpartition(".")
            made = _quantized(layer, getattr(quantized, "Quant" + kind), described)
            setattr(module.get_submodule(parent), attribute, made)
    return module


def _quantized(layer: Any, kind: Any, described: Any) -> Any:
    names = [name for name in inspect.signature(type(layer).__init__).parameters if hasattr(layer, name)]
    arguments = {name: getattr(layer, name) for name in names}
    if "bias" in arguments:
        arguments["bias"] = layer.bias is not None
    if not hasattr(layer, "weight"):
        described = {"quant_desc_input": described["quant_desc_input"]}
    made = kind(**arguments, **described)
    made.load_state_dict(layer.state_dict())
    return made.train(layer.training)


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """While this is open, quantizers run as PyTorch's own fake quantization, which exporters write as Q/DQ nodes."""
    quantizer = quantizer_class()
    quantizer.use_fb_fake_quant = True
    try:
        yield
    finally:
        quantizer.use_fb_fake_quant = False
