# SPDX-License-Identifier: Apache-2.0
"""Every workflow by name, imported only when it is asked for. A test holds this table equal to the catalogue."""

import importlib
from typing import Type

from workers.workflows.base import Workflow
from workers.workflows.errors import Unsupported

TABLE = {
    "pytorch": "workers.workflows.pytorch:PyTorch",
    "onnxruntime_cpu": "workers.workflows.onnxruntime_cpu:OnnxRuntimeCpu",
    "onnxruntime_cuda": "workers.workflows.onnxruntime_cuda:OnnxRuntimeCuda",
    "onnxruntime_trt": "workers.workflows.onnxruntime_trt:OnnxRuntimeTrt",
    "torch_compile": "workers.workflows.torch_compile:TorchCompile",
    "openvino": "workers.workflows.openvino:OpenVino",
    "onnx_tensorrt": "workers.workflows.onnx_tensorrt:OnnxTensorRT",
    "pytorch_quantization": "workers.workflows.pytorch_quantization:PytorchQuantization",
    "torch_tensorrt": "workers.workflows.torch_tensorrt:TorchTensorRT",
    "tensorflow": "workers.workflows.tensorflow:TensorFlow",
    "tf_trt": "workers.workflows.tf_trt:TfTrt",
    "fake": "workers.workflows.fake:Fake",
}


def workflow_class(name: str) -> Type[Workflow]:
    """Return the class of a workflow.

    Raises:
        Unsupported: no workflow has this name; the hint lists those there are.
    """
    if name not in TABLE:
        raise Unsupported(
            "there is no workflow {!r}".format(name),
            "There are: {}.".format(", ".join(sorted(TABLE))),
            "unknown-workflow",
        )
    module, _, attribute = TABLE[name].partition(":")
    found: Type[Workflow] = getattr(importlib.import_module(module), attribute)
    return found
