# SPDX-License-Identifier: Apache-2.0
"""What can be asked for: workflows, precisions, data, torchvision's classification models. Tables, nothing imported."""

from typing import Dict

from farm.contract.workflow_info import FeatureNeed, OptionValues, Preload, WorkflowInfo

FAKE_BEHAVIOURS = tuple(
    """
    ok raise segfault exit_without_result half_result hang allocate noise grandchild ignore_sigterm unsupported
    out_of_memory
    """.split()
)

_STRONG_TYPING = FeatureNeed(
    feature="strong_typing",
    lacking="no strongly typed networks",
    hint="Leave the option `typing` out, or use a stack with TensorRT 10 or later.",
    options={"typing": "strong"},
)
#: Not of ONNX files, which may hold Q/DQ nodes already: the runner finds out.
_IMPLICIT_INT8 = FeatureNeed(
    feature="implicit_int8",
    lacking="no implicit int8",
    hint="Use an explicit Q/DQ graph, `quantization: explicit`, or a stack with TensorRT 10 or older.",
    precisions=("int8",),
    sources=("torchvision", "encoder"),
    options={"quantization": "implicit"},
)
_NAMED_TENSORS = FeatureNeed(
    feature="named_tensors", lacking="no named tensors", hint="Use a stack with TensorRT 8.5 or later."
)

_TF_TRT = FeatureNeed(
    feature="tf_trt",
    lacking="no TF-TRT",
    hint="Use a stack whose TensorFlow (2.17 or older) was built with TensorRT, with that TensorRT's libraries on its "
    "LD_LIBRARY_PATH: benchmarks/gpu/pack_tensorflow.py makes one. Without: `tensorflow`, or `onnx_tensorrt`.",
)

_NUMPY, _TORCH = ("numpy",), ("numpy", "torch", "torchvision")
#: onnxruntime and openvino start threads when they are imported, so each process imports them itself.
_PRELOAD_CPU = {"cpu": Preload(prepare=_TORCH, measure=_NUMPY)}
#: torch loads cuBLAS and cuDNN, which read NVIDIA_TF32_OVERRIDE as they load: not ahead of ONNX Runtime's sessions.
_PRELOAD_GPU = {"gpu": Preload(prepare=_NUMPY, measure=_NUMPY)}
_PRELOAD_TORCH = {kind: Preload(prepare=_TORCH, measure=_TORCH) for kind in ("cpu", "gpu")}

_CUDA_GRAPH = "GPU: capture each inference as a CUDA graph and launch that (default false)"

_WORKFLOWS = (
    WorkflowInfo(
        name="pytorch",
        summary="PyTorch eager: the reference for speed-up and mismatch",
        precisions=("fp32", "tf32", "fp16", "bf16"),
        device_kinds=("cpu", "gpu"),
        requires=("torch", "torchvision", "numpy"),
        options={
            "channels_last": "use the channels-last memory format (true or false)",
            "cuda_graph": _CUDA_GRAPH,
        },
        values={
            "channels_last": OptionValues("bool", default=False),
            "cuda_graph": OptionValues("bool", default=False),
        },
        gpu_options=("cuda_graph",),
        sources=("torchvision", "encoder"),
        precisions_by_kind={"cpu": ("fp32", "bf16")},
        preload=_PRELOAD_TORCH,
        concurrency={"cpu": ("sessions",), "gpu": ("sessions",)},
    ),
    WorkflowInfo(
        name="onnxruntime_cpu",
        summary="ONNX Runtime's CPU execution provider; int8 is static Q/DQ",
        precisions=("fp32", "int8"),
        device_kinds=("cpu",),
        requires=("onnxruntime", "onnx", "torch", "torchvision", "numpy"),
        options={
            "per_channel": "int8: one scale per output channel of a weight (default true)",
            "activation_type": "int8: quint8 (default, fast on x86) or qint8",
        },
        values={
            "per_channel": OptionValues("bool", default=True),
            "activation_type": OptionValues("text", default="quint8", choices=("quint8", "qint8")),
        },
        sources=("torchvision", "encoder", "onnx"),
        preload=_PRELOAD_CPU,
        concurrency={"cpu": ("sessions", "inter_threads")},
    ),
    WorkflowInfo(
        name="onnxruntime_cuda",
        summary="ONNX Runtime's CUDA execution provider; fp16 is a converted file, int8 static Q/DQ",
        precisions=("fp32", "tf32", "fp16", "int8"),
        device_kinds=("gpu",),
        requires=("onnxruntime", "onnx", "numpy"),
        options={
            "per_channel": "int8: one scale per output channel of a weight (default true)",
            "activation_type": "int8: qint8 (default) or quint8",
            "cuda_graph": _CUDA_GRAPH,
        },
        values={
            "per_channel": OptionValues("bool", default=True),
            "activation_type": OptionValues("text", default="qint8", choices=("quint8", "qint8")),
            "cuda_graph": OptionValues("bool", default=False),
        },
        gpu_options=("cuda_graph",),
        single_options=("cuda_graph",),
        sources=("torchvision", "encoder", "onnx"),
        needs_features={"onnxruntime_providers_loadable": "CUDAExecutionProvider"},
        preload=_PRELOAD_GPU,
        concurrency={"gpu": ("sessions",)},
    ),
    WorkflowInfo(
        name="onnxruntime_trt",
        summary="ONNX Runtime's TensorRT execution provider; int8 by a calibration table",
        precisions=("fp32", "tf32", "fp16", "int8"),
        device_kinds=("gpu",),
        requires=("onnxruntime", "onnx", "numpy"),
        options={
            "optimization_level": "the builder's effort, 0 to 5 (default: the provider's own, 3)",
            "allow_fp16": "int8: let layers without int8 run in fp16 (default false)",
            "cuda_graph": _CUDA_GRAPH,
        },
        values={
            "optimization_level": OptionValues("int", minimum=0),
            "allow_fp16": OptionValues("bool", default=False),
            "cuda_graph": OptionValues("bool", default=False),
        },
        gpu_options=("cuda_graph",),
        single_options=("cuda_graph",),
        sources=("torchvision", "encoder", "onnx"),
        needs_features={"onnxruntime_providers_loadable": "TensorrtExecutionProvider"},
        rebuilds=True,
        preload=_PRELOAD_GPU,
        concurrency={"gpu": ("sessions",)},
    ),
    WorkflowInfo(
        name="torch_compile",
        summary="torch.compile with Inductor: the first thing a PyTorch user would try",
        precisions=("fp32", "tf32", "fp16", "bf16"),
        device_kinds=("cpu", "gpu"),
        requires=("torch", "torchvision", "numpy"),
        options={
            "mode": "Inductor's mode: default, max-autotune or reduce-overhead, which is refused on CPUs",
            "dynamic": "compile for shapes that vary (true or false)",
            "channels_last": "use the channels-last memory format (true or false)",
        },
        values={
            "mode": OptionValues("text", default="default", choices=("default", "reduce-overhead", "max-autotune")),
            "dynamic": OptionValues("bool", default=False),
            "channels_last": OptionValues("bool", default=False),
        },
        sources=("torchvision", "encoder"),
        precisions_by_kind={"cpu": ("fp32", "bf16")},
        requires_by_kind={"gpu": ("triton",)},
        preload=_PRELOAD_TORCH,
    ),
    WorkflowInfo(
        name="openvino",
        summary="OpenVINO's CPU plugin: what a CPU user would pick; int8 is the Q/DQ file of onnxruntime_cpu",
        precisions=("fp32", "int8"),
        device_kinds=("cpu",),
        requires=("openvino", "onnxruntime", "onnx", "torch", "torchvision", "numpy"),
        options={
            "per_channel": "int8: one scale per output channel of a weight (default true)",
            "activation_type": "int8: quint8; qint8 is refused, since OpenVINO gets it wrong for some models",
        },
        values={
            "per_channel": OptionValues("bool", default=True),
            "activation_type": OptionValues("text", default="quint8", choices=("quint8", "qint8")),
        },
        sources=("torchvision", "encoder", "onnx"),
        preload=_PRELOAD_CPU,
    ),
    WorkflowInfo(
        name="onnx_tensorrt",
        summary="ONNX to a TensorRT engine: named tensors, pinned buffers, one stream",
        precisions=("fp32", "tf32", "fp16", "int8"),
        device_kinds=("gpu",),
        requires=("tensorrt", "numpy"),
        options={
            "optimization_level": "the builder's effort, 0 to 5 (default: the builder's own; TensorRT 8.6 and later)",
            "profile": "batch (default): an engine for each batch; ladder: one engine for all",
            "allow_fp16": "int8: let layers without int8 run in fp16 (default false)",
            "quantization": "int8: implicit (default: TensorRT's calibrators) or explicit (a graph with Q/DQ nodes)",
            "typing": "weak (default: the builder chooses types) or strong (TensorRT 10 and later: as in the graph)",
            "cuda_graph": _CUDA_GRAPH,
        },
        values={
            "optimization_level": OptionValues("int", minimum=0),
            "profile": OptionValues("text", default="batch", choices=("batch", "ladder")),
            "allow_fp16": OptionValues("bool", default=False),
            "quantization": OptionValues("text", default="implicit", choices=("implicit", "explicit")),
            "typing": OptionValues("text", default="weak", choices=("weak", "strong")),
            "cuda_graph": OptionValues("bool", default=False),
        },
        gpu_options=("cuda_graph",),
        sources=("torchvision", "encoder", "onnx"),
        needs_of_jobs=(_NAMED_TENSORS, _STRONG_TYPING, _IMPLICIT_INT8),
        rebuilds=True,
        preload=_PRELOAD_GPU,
        concurrency={"gpu": ("contexts",)},
    ),
    WorkflowInfo(
        name="pytorch_quantization",
        summary="Quantised in PyTorch (PTQ or QAT), exported with Q/DQ nodes, run by TensorRT or ONNX Runtime",
        precisions=("int8",),
        device_kinds=("cpu", "gpu"),
        requires=("torch", "torchvision", "onnx", "numpy"),
        requires_any=(("pytorch_quantization", "modelopt"),),
        requires_by_kind={"cpu": ("onnxruntime",), "gpu": ("tensorrt",)},
        options={
            "library": "auto (default: pytorch_quantization, else modelopt), or one of the two",
            "mode": "ptq (default), or qat: train with the quantizers on, which needs data with classes",
            "epochs": "qat: how often to go through the training data (default 2)",
            "learning_rate": "qat: the rate to start from; it is annealed along a cosine (default 0.0001)",
            "per_channel": "one scale per output channel of a weight (default true)",
            "optimization_level": "GPU: the builder's effort, 0 to 5 (default: the builder's own)",
            "profile": "GPU: batch (default): an engine for each batch; ladder: one engine for all",
            "allow_fp16": "GPU: let layers without int8 run in fp16 (default false)",
        },
        values={
            "library": OptionValues("text", default="auto", choices=("auto", "pytorch_quantization", "modelopt")),
            "mode": OptionValues("text", default="ptq", choices=("ptq", "qat")),
            "epochs": OptionValues("int", default=2, minimum=1),
            "learning_rate": OptionValues("float", default=1e-4, minimum=0.0),
            "per_channel": OptionValues("bool", default=True),
            "optimization_level": OptionValues("int", minimum=0),
            "profile": OptionValues("text", default="batch", choices=("batch", "ladder")),
            "allow_fp16": OptionValues("bool", default=False),
        },
        sources=("torchvision", "encoder"),
        calibration_methods=("minmax", "entropy", "percentile", "mse"),
        rebuilds=True,
        concurrency={"cpu": ("sessions", "inter_threads"), "gpu": ("contexts",)},
    ),
    WorkflowInfo(
        name="torch_tensorrt",
        summary="Torch-TensorRT: TensorRT engines inside of a PyTorch module, by either of its front ends",
        precisions=("fp32", "tf32", "fp16", "int8"),
        device_kinds=("gpu",),
        requires=("torch", "torchvision", "torch_tensorrt", "numpy"),
        options={
            "frontend": "dynamo (default) or ts, the TorchScript front end; int8 needs ts",
            "optimization_level": "dynamo: the builder's effort, 0 to 5 (default: the builder's own)",
            "min_block_size": "fewest operators that make an engine (default: the library's own)",
            "require_full_compilation": "refuse a model that TensorRT does not take as a whole (true or false)",
        },
        values={
            "frontend": OptionValues("text", default="dynamo", choices=("dynamo", "ts")),
            "optimization_level": OptionValues("int", minimum=0),
            "min_block_size": OptionValues("int", minimum=1),
            "require_full_compilation": OptionValues("bool", default=False),
        },
        sources=("torchvision", "encoder"),
        scenarios=("single", "offline"),
    ),
    WorkflowInfo(
        name="tensorflow",
        summary="TensorFlow's own run-time on a SavedModel: what TF-TRT is held against",
        precisions=("fp32", "tf32", "fp16"),
        device_kinds=("cpu", "gpu"),
        requires=("tensorflow", "numpy"),
        options={},
        sources=("keras", "saved_model"),
        precisions_by_kind={"cpu": ("fp32",)},
        scenarios=("single", "offline"),
    ),
    WorkflowInfo(
        name="tf_trt",
        summary="TF-TRT: TensorRT engines inside of a SavedModel, the rest of it run by TensorFlow",
        precisions=("fp32", "tf32", "fp16", "int8"),
        device_kinds=("gpu",),
        requires=("tensorflow", "numpy"),
        options={
            "minimum_segment_size": "fewest nodes that make an engine (default: the library's own, 3)",
            "workspace_mib": "most memory that an engine's kernels may take as scratch (default: the library's own)",
        },
        values={
            "minimum_segment_size": OptionValues("int", minimum=1),
            "workspace_mib": OptionValues("int", minimum=1),
        },
        sources=("keras", "saved_model"),
        calibration_methods=("entropy",),
        needs_of_jobs=(_TF_TRT,),
        scenarios=("single", "offline"),
    ),
    WorkflowInfo(
        name="fake",
        summary="No model at all: known latencies and failures on request, to test the farm itself",
        precisions=("fp32", "fp16", "int8"),
        device_kinds=("cpu", "gpu", "soc"),
        requires=(),
        options={
            "latency_ms": "what each inference takes (default 1.0)",
            "behaviour": ", ".join(FAKE_BEHAVIOURS),
            "stage": "the stage at which it misbehaves (default measure)",
            "from_batch": "misbehave from this batch size on (default 1)",
            "pace_file": "a file whose number each latency is multiplied with, for a device that changes",
            "engine_pace_file": "the same, read when the engine is built and kept in it, for an engine that changes",
        },
        values={
            "latency_ms": OptionValues("float", default=1.0, minimum=0.0),
            "behaviour": OptionValues("text", default="ok", choices=FAKE_BEHAVIOURS),
            "stage": OptionValues("text", default="measure"),
            "from_batch": OptionValues("int", default=1, minimum=1),
            "pace_file": OptionValues("text"),
            "engine_pace_file": OptionValues("text"),
        },
        preload={kind: Preload() for kind in ("cpu", "gpu", "soc")},
        concurrency={kind: ("contexts", "sessions", "inter_threads") for kind in ("cpu", "gpu", "soc")},
    ),
)

WORKFLOWS: Dict[str, WorkflowInfo] = {w.name: w for w in _WORKFLOWS}

#: In fp32 these are what speed-ups and mismatches are taken against; no model has more than one of them.
BASELINES = ("pytorch", "tensorflow")

PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")
CALIBRATION_METHODS = ("minmax", "entropy", "percentile", "mse")
TIMING_CACHES = ("cold", "shared")
#: What inputs and calibration data are: random numbers, or images with classes.
DATA = ("uniform", "digits", "imagenet")
ACCURACY_DATA = ("digits", "imagenet")
LADDER_STOPS = ("out_of_memory", "saturated")
DEVICE_KINDS = ("cpu", "gpu", "soc")

#: torchvision's classification models (0.28), held equal to `torchvision.models.list_models` by a test.
TORCHVISION_MODELS = tuple(
    """
    alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161 densenet169
    densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5
    efficientnet_b6 efficientnet_b7 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s googlenet inception_v3
    maxvit_t mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small
    regnet_x_16gf regnet_x_1_6gf regnet_x_32gf regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf
    regnet_y_128gf regnet_y_16gf regnet_y_1_6gf regnet_y_32gf regnet_y_3_2gf regnet_y_400mf regnet_y_800mf
    regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50 resnext101_32x8d resnext101_64x4d
    resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0
    squeezenet1_1 swin_b swin_s swin_t swin_v2_b swin_v2_s swin_v2_t vgg11 vgg11_bn vgg13 vgg13_bn vgg16
    vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32 vit_h_14 vit_l_16 vit_l_32 wide_resnet101_2 wide_resnet50_2
    """.split()
)

#: Those of keras.applications that torchvision has, too, under its names. None is the same network to the last layer
#: (Keras' ResNets put the stride in another convolution), so they are never called by torchvision's name.
KERAS_PREFIX = "keras_"
KERAS_MODELS = tuple(
    KERAS_PREFIX + name
    for name in """
    densenet121 densenet169 densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4
    efficientnet_b5 efficientnet_b6 efficientnet_b7 inception_v3 mobilenet_v2 resnet50 resnet101 resnet152 vgg16 vgg19
    """.split()
)
