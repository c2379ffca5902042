# SPDX-License-Identifier: Apache-2.0
"""Models of keras.applications as SavedModels, with random weights that the same seed makes again.

The last layer gives logits, as torchvision's models do: Keras' softmax of random weights would be 1/1000 everywhere,
and match anything.
"""

import re
from typing import Any, Dict

from farm.contract.catalogue import KERAS_MODELS, KERAS_PREFIX
from farm.contract.job import ModelSpec
from workers.workflows import datasets
from workers.workflows.base import Context
from workers.workflows.errors import Unsupported

#: Counts changes of how weights and the SavedModel are made; part of every cache key.
RECIPE = 1
INPUT, OUTPUT, SIGNATURE = "input", "output", "serving_default"
_SETTLE_BATCH = 8
#: The running statistics after the second forward are the plain mean of both.
_MOMENTA = (0.0, 0.5)
#: As in torch_models: at 1 every block adds as much as it passes on, and rounding grows with depth.
_BRANCH_SCALE = 0.2
_LAST_OF_BRANCH = re.compile(r"conv\d_block\d+_3_bn$")

_CLASSES = {
    "densenet121": "DenseNet121",
    "densenet169": "DenseNet169",
    "densenet201": "DenseNet201",
    "inception_v3": "InceptionV3",
    "mobilenet_v2": "MobileNetV2",
    "resnet50": "ResNet50",
    "resnet101": "ResNet101",
    "resnet152": "ResNet152",
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    **{"efficientnet_b{}".format(n): "EfficientNetB{}".format(n) for n in range(8)},
}


def check(model: ModelSpec) -> None:
    """Refuse what no model of Keras can be, before anything is imported. Raises Unsupported."""
    if model.name not in KERAS_MODELS:
        raise Unsupported(
            "keras.applications has no {!r} that the farm knows".format(model.name),
            "It knows: {}.".format(", ".join(KERAS_MODELS)),
            "unknown-model",
        )
    kind, _, seed = model.weights.partition(":")
    if kind != "random" or not seed.isdigit():
        raise Unsupported(
            "{} has no weights {!r}".format(model.name, model.weights),
            "Models of Keras have random weights, `random:SEED`; trained ones come as `saved_model: DIRECTORY`.",
            "unknown-weights",
        )
    if len(model.input_shape) != 3 or model.input_shape[0] != 3:
        raise Unsupported(
            "{} takes inputs of shape (3, height, width), not {}".format(model.name, tuple(model.input_shape)),
            "Give the model an input of three dimensions with three channels, which come first here as everywhere.",
            "input-shape-unsupported",
        )


def key(ctx: Context, dtype: str) -> Dict[str, Any]:
    """All that a SavedModel depends on but the versions of TensorFlow and Keras."""
    model = ctx.job.model
    return {
        "model": model.name,
        "weights": model.weights,
        "classes": datasets.classes(ctx.job),
        "input_shape": list(model.input_shape),
        "dtype": dtype,
        "recipe": RECIPE,
    }


def save(ctx: Context, tf: Any, dtype: str, directory: str) -> Dict[str, Any]:
    """Write a model's SavedModel; float16 is the float32 model with its weights rounded. Returns facts.

    Its input is float32 in either case, (N, height, width, 3), and so is its output.
    """
    tf.keras.utils.set_random_seed(int(ctx.job.model.weights.partition(":")[2]))
    model = _built(ctx, tf)
    _calm_branches(model)
    _settle(tf, model)
    if dtype != "float32":
        weights = model.get_weights()
        tf.keras.backend.clear_session()
        tf.keras.mixed_precision.set_global_policy(dtype)
        model = _built(ctx, tf)
        model.set_weights(weights)
        tf.keras.mixed_precision.set_global_policy("float32")
    _write(tf, model, dtype, directory)
    return {"parameters": int(model.count_params()), "dtype": dtype}


def _built(ctx: Context, tf: Any) -> Any:
    model = ctx.job.model
    name = model.name[len(KERAS_PREFIX) :]
    shape = (model.input_shape[1], model.input_shape[2], 3)
    classes = datasets.classes(ctx.job)
    maker = getattr(tf.keras.applications, _CLASSES[name])
    try:
        return maker(weights=None, input_shape=shape, classes=classes, classifier_activation=None)
    except ValueError as error:
        raise Unsupported(
            "{} does not exist for inputs of {}: {}".format(model.name, tuple(model.input_shape), error),
            "Set the model's `input` to a size that it takes; [3, 224, 224] fits all.",
            "input-shape-unsupported",
        ) from error


def _calm_branches(model: Any) -> None:
    for layer in model.layers:
        if _LAST_OF_BRANCH.match(layer.name):
            layer.gamma.assign(layer.gamma * _BRANCH_SCALE)


def _settle(tf: Any, model: Any) -> None:
    """Set BatchNorm's running statistics to those of two random batches, as torch_models does and for its reason."""
    norms = [layer for layer in model.layers if isinstance(layer, tf.keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for momentum in _MOMENTA if norms else ():
        for norm in norms:
            norm.momentum = momentum
        model(tf.random.uniform((_SETTLE_BATCH, *model.input_shape[1:])), training=True)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum


def _write(tf: Any, model: Any, dtype: str, directory: str) -> None:
    signature = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32, name=INPUT)

    class Served(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        @tf.function(input_signature=[signature])  # type: ignore[untyped-decorator]
        def serve(self, batch: Any) -> Dict[str, Any]:
            found = self.model(tf.cast(batch, dtype), training=False)
            return {OUTPUT: tf.cast(found, tf.float32)}

    served = Served()
    tf.saved_model.save(served, directory, signatures={SIGNATURE: served.serve})
