# SPDX-License-Identifier: Apache-2.0
"""What this interpreter can do, found by trying: a `StackInfo` as JSON."""

import contextlib
import importlib
import importlib.util
import platform
import sys
import warnings
from typing import Any, Callable, Dict, Iterator, Optional, Tuple

from farm.contract.codec import to_json
from farm.contract.device import StackInfo
from workers.runner import probe_gpu
from workers.runner.control import write_json
from workers.runner.environment import LIBRARIES, cpu_flags, version_of
from workers.workflows import ort_providers
from workers.workflows.base import default_threads
from workers.workflows.openvino_setup import import_openvino
from workers.workflows.tf_trt_compat import features as tensorflow_features
from workers.workflows.torch_setup import import_torchvision
from workers.workflows.trt_compat import features

_MOST_PROBLEM = 300
#: Libraries whose plain import fails, or does what it should not.
_IMPORTERS: Dict[str, Callable[[], Any]] = {"torchvision": import_torchvision, "openvino": import_openvino}


def write_probe(path: str) -> None:
    """Probe this interpreter and write the result to `path`, atomically."""
    write_json(path, to_json(probe()))


def probe() -> StackInfo:
    """Import every library of interest that is installed; one that fails is a problem, never the end of the probe."""
    libraries: Dict[str, str] = {}
    problems: Dict[str, str] = {}
    with _output_to_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in LIBRARIES:
            try:
                version = _version(name)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the boundary: a foreign import may do anything
                problems[name] = _last_line(error)
                continue
            if version is not None:
                libraries[name] = version
        features = _features(libraries, problems)
    return StackInfo(
        name="python-" + platform.python_version(),
        python=sys.executable,
        python_version=platform.python_version(),
        libraries=libraries,
        problems=problems,
        features=features,
    )


def _version(name: str) -> Optional[str]:
    """The version of a module that can be imported; None where it is not installed."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    if spec.origin is None:
        raise ImportError("only a folder of that name is left, without a package in it")
    importer = _IMPORTERS.get(name)
    return version_of(importer() if importer else importlib.import_module(name))


def _features(libraries: Dict[str, str], problems: Dict[str, str]) -> Dict[str, Any]:
    found: Dict[str, Any] = {"cpu_count": default_threads(), "machine": platform.machine(), "cpu_flags": cpu_flags()}
    asked: Tuple[Tuple[str, Callable[[Any], Dict[str, Any]]], ...] = (
        ("torch", _torch_features),
        ("onnxruntime", ort_providers.probe),
        ("tensorrt", features),
        ("tensorflow", tensorflow_features),
    )
    for name, ask in asked:
        if name not in libraries:
            continue
        try:
            found.update(ask(sys.modules[name]))
        except Exception as error:  # noqa: BLE001 - the boundary: a feature that cannot be read is a problem, no more
            problems[name + " features"] = _last_line(error)
    found.update(probe_gpu.probe(problems))
    return found


def _torch_features(torch: Any) -> Dict[str, Any]:
    return {
        "torch_cuda_available": bool(torch.cuda.is_available()),
        "torch_cuda": getattr(torch.version, "cuda", None),
        "torch_threads": torch.get_num_threads(),
    }


@contextlib.contextmanager
def _output_to_stderr() -> Iterator[None]:
    """Libraries greet on standard output; the probe's caller reads a file, and keeps stdout clean."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = "{}: {}".format(type(error).__name__, lines[-1]) if lines else type(error).__name__
    return text[:_MOST_PROBLEM]
