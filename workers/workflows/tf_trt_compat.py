# SPDX-License-Identifier: Apache-2.0
"""Whether a TensorFlow has TF-TRT: found by asking it, since its Python modules are there in every wheel.

TensorFlow's releases from 2.18 on are built without TensorRT, as those for CPUs always were. A TensorFlow that is
built with it opens TensorRT's libraries when it is asked for their version.
"""

import importlib
from typing import Any, Dict, Optional, Tuple

from workers.workflows.errors import Unsupported

_ASK = "tensorflow.compiler.tf2tensorrt._pywrap_py_utils"
_CONVERTER = "tensorflow.python.compiler.tensorrt.trt_convert"
HINT = (
    "Give the job to a stack whose TensorFlow (2.17 or older) was built with TensorRT, with that TensorRT's libraries "
    "on its LD_LIBRARY_PATH. `tensorflow` runs the model without it, `onnx_tensorrt` an ONNX file with it."
)
Version = Tuple[int, ...]


def features(tf: Any) -> Dict[str, Any]:
    """For the probe: the CUDA that it was built for, whether there is TF-TRT, why not, and which TensorRT it loads."""
    found = {"tensorflow_cuda": tf.sysconfig.get_build_info().get("cuda_version")}
    problem = lacking(tf)
    if problem is not None:
        return dict(found, tf_trt=False, tf_trt_problem=problem)
    return dict(found, tf_trt=True, tf_trt_tensorrt=dotted(versions(tf)[1]))


def lacking(tf: Any) -> Optional[str]:
    """Why a TensorFlow has no TF-TRT; None where it has."""
    try:
        asked: Any = importlib.import_module(_ASK)
        importlib.import_module(_CONVERTER)
    except ImportError as error:
        return "TensorFlow {} has no TF-TRT: {}".format(tf.__version__, error)
    if not asked.is_tensorrt_enabled():
        return "TensorFlow {} was built without TensorRT".format(tf.__version__)
    return mismatch(*versions(tf))


def versions(tf: Any) -> Tuple[Version, Version]:
    """The TensorRT that TensorFlow was built with, and the one that it loads; zeros where there is none to load."""
    asked: Any = importlib.import_module(_ASK)
    return tuple(asked.get_linked_tensorrt_version()), tuple(asked.get_loaded_tensorrt_version())


def mismatch(linked: Version, loaded: Version) -> Optional[str]:
    """Why TensorFlow would refuse the TensorRT that it loads: another major version, or an older one."""
    if not any(loaded):
        return "the libraries of TensorRT {} do not load".format(dotted(linked))
    if loaded[0] != linked[0] or loaded < linked:
        return "TensorFlow was built with TensorRT {}, and {} loads".format(dotted(linked), dotted(loaded))
    return None


def dotted(version: Version) -> str:
    """(8, 5, 3) is 8.5.3."""
    return ".".join(str(part) for part in version)


def import_converter(tf: Any) -> Any:
    """The module of TF-TRT's converter. Raises Unsupported, saying why it has none that works."""
    problem = lacking(tf)
    if problem is not None:
        raise Unsupported(problem, HINT, "tf-trt-missing")
    return importlib.import_module(_CONVERTER)
