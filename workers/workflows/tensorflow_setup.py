# SPDX-License-Identifier: Apache-2.0
"""Import TensorFlow as the farm needs it: strict fp32, a fixed number of threads, one device."""

import os
from typing import Any, Dict

from workers.workflows import cuda_driver, tf32
from workers.workflows.base import Context, require
from workers.workflows.errors import PrecisionNotHeld, SettingNotHeld, Unsupported
from workers.workflows.torch_setup import FPMATH_MODE, FPMATH_VARIABLE

#: TensorFlow's own word for oneDNN's math mode: "BF16" would run fp32 convolutions in bf16.
_TF_FPMATH_VARIABLE = "TF_SET_ONEDNN_FPMATH_MODE"
#: One request is in flight: operators that could run beside each other would take turns with the others' threads.
INTER_OP_THREADS = 1


def import_tensorflow(ctx: Context, use_gpu: bool) -> Any:
    """Import tensorflow, `ctx.threads` threads for an operator, TF32 as the precision says, the GPU or none.

    A process does it once for one device; again with the same gives the same. GPU memory is taken as it is needed, so
    that what a run takes can be told.

    Raises:
        MissingLibrary: tensorflow is not installed.
        Unsupported: `use_gpu`, and TensorFlow cannot use exactly one GPU.
        SettingNotHeld: the threads were settled before.
        PrecisionNotHeld: fp32 products would run in a lower precision.
    """
    set_environment(ctx.job.precision, use_gpu)
    if use_gpu:
        cuda_driver.check_one_gpu()
    tf = require("tensorflow")
    _set_threads(tf, ctx.threads)
    tf.config.experimental.enable_tensor_float_32_execution(ctx.job.precision == "tf32")
    if use_gpu:
        _take_gpu(tf)
    else:
        tf.config.set_visible_devices([], "GPU")
    return tf


def set_environment(precision: str, use_gpu: bool) -> None:
    """Set what libraries read when they are loaded, before TensorFlow is imported; again does no harm.

    Raises:
        PrecisionNotHeld: the environment, or a library loaded already, is against the precision.
    """
    forced = os.environ.get(_TF_FPMATH_VARIABLE)
    if forced:
        raise PrecisionNotHeld(
            "{}={} lets oneDNN run fp32 products in a lower precision".format(_TF_FPMATH_VARIABLE, forced),
            "Take the variable out of the stack's environment.",
        )
    os.environ[FPMATH_VARIABLE] = FPMATH_MODE
    if use_gpu:
        tf32.hold(precision)


def _set_threads(tf: Any, threads: int) -> None:
    wanted = {"intra": threads, "inter": INTER_OP_THREADS}
    found = thread_settings(tf)
    if found == wanted:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(INTER_OP_THREADS)
    except RuntimeError as error:
        raise SettingNotHeld(
            "TensorFlow had started its threads already: {} instead of {}".format(found, wanted),
            "Something else in this interpreter runs TensorFlow first; look at usercustomize.",
        ) from error


def thread_settings(tf: Any) -> Dict[str, int]:
    """Threads for one operator and for operators beside each other, as TensorFlow tells them."""
    threading = tf.config.threading
    return {
        "intra": threading.get_intra_op_parallelism_threads(),
        "inter": threading.get_inter_op_parallelism_threads(),
    }


def _take_gpu(tf: Any) -> None:
    found = tf.config.list_physical_devices("GPU")
    if len(found) != 1:
        raise Unsupported(
            "TensorFlow {} sees {} GPUs, not one ({})".format(tf.__version__, len(found), _built_for(tf)),
            "It opens the CUDA libraries of the versions that it was built for, all of them: put them on the stack's "
            "LD_LIBRARY_PATH. Its words are in the run's log.",
            "gpu-not-usable",
        )
    if not tf.config.experimental.get_memory_growth(found[0]):
        tf.config.experimental.set_memory_growth(found[0], True)


def _built_for(tf: Any) -> str:
    info = tf.sysconfig.get_build_info()
    if not info.get("is_cuda_build"):
        return "it is built for CPUs"
    return "built for CUDA {} and cuDNN {}".format(info.get("cuda_version"), info.get("cudnn_version"))


def gpu_facts(tf: Any) -> Dict[str, Any]:
    """What really runs on a GPU, for the record."""
    info, (gpu,) = tf.sysconfig.get_build_info(), tf.config.list_physical_devices("GPU")
    details = tf.config.experimental.get_device_details(gpu)
    return {
        "gpu_name": details.get("device_name"),
        "cuda": info.get("cuda_version"),
        "cudnn": info.get("cudnn_version"),
        "kernels_compiled_for": list(info.get("cuda_compute_capabilities", [])),
    }
