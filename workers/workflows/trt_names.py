# SPDX-License-Identifier: Apache-2.0
"""The names of TensorRT's Python binding that `trt_compat` uses, 8.5 to 11. A test holds both against the bindings."""

from typing import Dict, Optional, Tuple

#: What is called without asking, in every version from 8.5 on.
REQUIRED: Dict[str, Tuple[str, ...]] = {
    "Builder": (
        "create_network",
        "create_builder_config",
        "create_optimization_profile",
        "build_serialized_network",
    ),
    "IBuilderConfig": (
        "set_flag",
        "clear_flag",
        "get_flag",
        "add_optimization_profile",
        "profiling_verbosity",
        "create_timing_cache",
        "set_timing_cache",
        "get_timing_cache",
    ),
    "BuilderFlag": ("TF32",),
    "IOptimizationProfile": ("set_shape",),
    "ITimingCache": ("serialize",),
    "INetworkDefinition": ("num_inputs", "get_input", "num_outputs", "get_output", "num_layers", "get_layer"),
    "ITensor": ("name", "shape", "dtype"),
    "ILayer": ("type",),
    "LayerType": ("QUANTIZE", "DEQUANTIZE"),
    "OnnxParser": ("parse_from_file", "num_errors", "get_error"),
    "ParserError": ("code", "desc", "node", "file", "line"),
    "ILogger": ("Severity", "INTERNAL_ERROR", "ERROR", "WARNING"),
    "ProfilingVerbosity": ("DETAILED",),
    "Runtime": ("deserialize_cuda_engine", "num_DLA_cores"),
    "ICudaEngine": (
        "num_io_tensors",
        "get_tensor_name",
        "get_tensor_mode",
        "get_tensor_dtype",
        "create_execution_context",
        "create_engine_inspector",
        "num_layers",
        "num_optimization_profiles",
    ),
    "IExecutionContext": (
        "set_input_shape",
        "get_tensor_shape",
        "set_tensor_address",
        "execute_async_v3",
        "set_optimization_profile_async",
        "profiler",
        "enqueue_emits_profile",
        "report_to_profiler",
    ),
    "IProfiler": ("report_layer_time",),
    "EngineInspector": ("get_engine_information",),
    "LayerInformationFormat": ("JSON",),
    "TensorIOMode": ("INPUT",),
    "DataType": ("FLOAT", "HALF", "INT8", "INT32", "BOOL"),
}

#: What is called only where it is there: the major and minor version that has it first and that has it last.
OPTIONAL: Dict[str, Dict[str, Tuple[Optional[Tuple[int, int]], Optional[Tuple[int, int]]]]] = {
    "BuilderFlag": {
        "FP16": (None, (10, 99)),
        "INT8": (None, (10, 99)),
        "VERSION_COMPATIBLE": ((8, 6), None),
    },
    "NetworkDefinitionCreationFlag": {"EXPLICIT_BATCH": (None, (10, 99)), "STRONGLY_TYPED": ((10, 0), None)},
    "IBuilderConfig": {
        "builder_optimization_level": ((8, 6), None),
        "int8_calibrator": (None, (10, 99)),
        "set_calibration_profile": (None, (10, 99)),
    },
    "ICudaEngine": {"device_memory_size": (None, (10, 99)), "device_memory_size_v2": ((10, 1), None)},
    "ParserError": {"node_name": ((10, 0), None), "node_operator": ((10, 0), None)},
    "IInt8EntropyCalibrator2": {"get_batch": (None, (10, 99)), "get_batch_size": (None, (10, 99))},
    "IInt8MinMaxCalibrator": {"get_batch": (None, (10, 99)), "get_batch_size": (None, (10, 99))},
}
