# SPDX-License-Identifier: Apache-2.0
"""The libraries that put quantizers into PyTorch models, behind one interface; and which of them a job takes.

A toolkit is a module with `quantizer_class()`, `insert(module, per_channel, histogram)` and `exporting()`. The
quantizers of both libraries have the same methods and calibrators, since one grew out of the other.
"""

import importlib
import importlib.util
from typing import Any, Callable, Dict

from workers.workflows.errors import MissingLibrary, Unsupported

#: By importable module, in the order in which `auto` takes them.
TOOLKITS: Dict[str, str] = {
    "pytorch_quantization": "workers.workflows.toolkit_pytorch_quantization",
    "modelopt": "workers.workflows.toolkit_modelopt",
}


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def choose(wanted: str, installed: Callable[[str], bool] = _installed) -> str:
    """The library to use for the option `library`, found without importing it.

    Raises:
        MissingLibrary: this interpreter does not have it, or has none of them.
        Unsupported: there is no such library.
    """
    if wanted != "auto" and wanted not in TOOLKITS:
        raise Unsupported(
            "option library is auto, {}, not {!r}".format(" or ".join(TOOLKITS), wanted), None, "unknown-option"
        )
    for name in TOOLKITS if wanted == "auto" else (wanted,):
        if installed(name):
            return name
    raise MissingLibrary(
        "this stack has no {}".format(" and no ".join(TOOLKITS) if wanted == "auto" else wanted),
        "Install `pytorch-quantization`, or `nvidia-modelopt` with `requests` and `huggingface_hub`, into the stack.",
    )


def toolkit(name: str) -> Any:
    """The module that speaks to a library; it imports the library only when it is used."""
    return importlib.import_module(TOOLKITS[name])
