# SPDX-License-Identifier: Apache-2.0
"""torchvision's classification models and text encoders, with weights that every workflow and process shares.

Weights are made once, in prepare, and kept in the cache as a state dict; measuring processes only load it.

Input limits: three channels; ViT takes squares that its patch size divides, MaxViT shapes that give every block a
multiple of 7 (224 does); Inception v3 is published for 299 and runs at 224. With `default` weights, ViT and MaxViT
take only the size they were trained at.
"""

import contextlib
from typing import Any, Dict, Iterator, Optional

from farm.contract.canonical import sha256_file
from farm.contract.catalogue import TORCHVISION_MODELS
from farm.contract.encoders import SOURCE as ENCODER
from farm.contract.names import check_sha256
from workers.workflows import datasets, digits_recipe, encoders
from workers.workflows.base import Context, versions
from workers.workflows.cache import CachedFile
from workers.workflows.errors import DamagedModel, Unsupported, WeightsUnavailable
from workers.workflows.torch_setup import import_torch, import_torchvision

#: Counts changes of how random weights are made; part of every cache key.
RECIPE = 2
#: How strongly a residual branch of random weights adds to its shortcut.
_BRANCH_SCALE = 0.2
_SETTLE_BATCH = 8
_SETTLE_FORWARDS = 2
#: Parameters of training-only heads, in published state dicts of GoogLeNet and Inception v3.
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
_WITH_AUXILIARY = ("googlenet", "inception_v3")


#: Initialisers that draw random numbers.
_RANDOM = (
    "kaiming_normal_", "kaiming_uniform_", "normal_", "trunc_normal_", "uniform_", "xavier_normal_", "xavier_uniform_",
)  # fmt: skip


class TorchModel:
    """The model of one job, built and loaded only when something needs it."""

    def __init__(self, ctx: Context) -> None:
        check(ctx)
        self._ctx = ctx
        self._module: Optional[Any] = None

    def key(self) -> Dict[str, Any]:
        """All that the module depends on."""
        model = self._ctx.job.model
        if model.sequence is not None:
            return dict(self._weights_key(), input_shape=list(model.input_shape))
        key = {
            "model": model.name,
            "weights": model.weights,
            "classes": datasets.classes(self._ctx.job),
            "input_shape": list(model.input_shape),
            "recipe": RECIPE,
            "versions": versions("torch", "torchvision"),
        }
        if model.weights.startswith("digits:"):
            key["training"] = digits_recipe.key(model.name)
        return key

    def _weights_key(self) -> Dict[str, Any]:
        """All that the weights depend on: an encoder's are the same for every length of a sequence."""
        model = self._ctx.job.model
        if model.sequence is None:
            return self.key()
        own = {"source": model.source, "model": model.name, "weights": model.weights, "recipe": encoders.RECIPE}
        return dict(own, versions=versions("torch"))

    def weights(self) -> CachedFile:
        """The state dict's file.

        Raises:
            WeightsUnavailable, DamagedModel: they could not be had, or are not those asked for.
        """
        return self._ctx.cached("weights", self._weights_key(), "weights.pt", self._make_weights, ready=self._import)

    def module(self) -> Any:
        """The `torch.nn.Module`, fp32, in eval mode, with its weights."""
        if self._module is None:
            entry = self.weights()
            if self._module is None:
                self._module = self._load(entry.path)
        return self._module

    def _import(self) -> None:
        import_torch(self._ctx)
        import_torchvision()

    def _make_weights(self, path: str) -> Dict[str, Any]:
        torch, facts = import_torch(self._ctx), {}
        self._module = _with_weights(self._ctx, torch, facts).eval()
        torch.save(self._module.state_dict(), path)
        return dict(facts, parameters=sum(p.numel() for p in self._module.parameters()))

    def _load(self, path: str) -> Any:
        torch = import_torch(self._ctx)
        import_torchvision()
        with _uninitialised(torch):
            module = build(self._ctx)
        # Strict: a parameter that the file does not have would keep what the memory held before.
        module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
        return module.eval()


@contextlib.contextmanager
def _uninitialised(torch: Any) -> Iterator[None]:
    """Let modules be built without random values that the weights' file replaces: vgg16 has 138 million of them.

    Every process of a job builds its module. All of torch's layers and torchvision's models initialise through the
    functions of `torch.nn.init`.
    """
    kept = {name: getattr(torch.nn.init, name) for name in _RANDOM if hasattr(torch.nn.init, name)}
    for name in kept:
        setattr(torch.nn.init, name, lambda tensor, *_args, **_keywords: tensor)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(torch.nn.init, name, function)


def check(ctx: Context) -> None:
    """Refuse what no torchvision model and no encoder can be, before anything is imported.

    Raises:
        Unsupported: neither of them, or not one that the farm knows, or not three channels.
    """
    model = ctx.job.model
    if model.source == ENCODER:
        encoders.check(ctx)
        return
    if model.source != "torchvision":
        raise Unsupported(
            "{} runs torchvision models and text encoders, not source {!r}".format(ctx.job.workflow, model.source),
            "Give a torchvision model by name, or choose a workflow that runs ONNX files, such as onnxruntime_cpu.",
            "source-unsupported",
        )
    if model.name not in TORCHVISION_MODELS:
        raise Unsupported("torchvision has no classification model {!r}".format(model.name), None, "unknown-model")
    if len(model.input_shape) != 3 or model.input_shape[0] != 3:
        raise Unsupported(
            "{} takes inputs of shape (3, height, width), not {}".format(model.name, tuple(model.input_shape)),
            "Give the model an input of three dimensions with three channels.",
            "input-shape-unsupported",
        )
    if model.weights == "default" and datasets.classes(ctx.job) != 1000:
        raise Unsupported(
            "the published weights of {} have 1000 classes, data `digits` has 10".format(model.name),
            "Use weights `digits:0`, which are trained on the digits, or `data: imagenet`.",
            "classes-unsupported",
        )


def build(ctx: Context, **more: Any) -> Any:
    """Build the module at the job's input size, initialised by torchvision, weights not yet those of the job.

    Raises:
        Unsupported: the architecture does not exist at this input size.
    """
    if ctx.job.model.source == ENCODER:
        return encoders.build(import_torch(ctx), ctx.job.model)
    torchvision = import_torchvision()
    model = ctx.job.model
    builder = getattr(torchvision.models, model.name, None)
    if builder is None:
        raise Unsupported(
            "this stack's torchvision {} has no {}".format(torchvision.__version__, model.name),
            "Use a stack with a newer torchvision.",
            "unknown-model",
        )
    arguments = dict(_builder_arguments(model.name, tuple(model.input_shape[1:])), **more)
    if datasets.classes(ctx.job) != 1000:
        arguments["num_classes"] = datasets.classes(ctx.job)
    if more.get("weights") is not None:
        # Published weights fix the size themselves; `_check_size` compares it.
        arguments = {k: v for k, v in arguments.items() if k not in ("image_size", "input_size", "init_weights")}
    try:
        module = builder(**dict({"weights": None}, **arguments))
    except ValueError as error:
        raise _size_unsupported(ctx, str(error)) from error
    _check_size(ctx, module)
    return module


def _builder_arguments(name: str, size: Any) -> Dict[str, Any]:
    if name in _WITH_AUXILIARY:
        return {"aux_logits": False, "init_weights": False}
    if name.startswith("vit_"):
        return {"image_size": size[0]}
    if name.startswith("maxvit"):
        return {"input_size": size}
    return {}


def _check_size(ctx: Context, module: Any) -> None:
    size = tuple(ctx.job.model.input_shape[1:])
    image = getattr(module, "image_size", None)
    if image is not None and size != (image, image):
        raise _size_unsupported(ctx, "it takes {0} x {0}".format(image))


def _size_unsupported(ctx: Context, why: str) -> Unsupported:
    model = ctx.job.model
    return Unsupported(
        "{} does not exist for inputs of {}: {}".format(model.name, tuple(model.input_shape), why),
        "Set the model's `input` to a size that it takes; [3, 224, 224] fits all with random weights.",
        "input-shape-unsupported",
    )


def _with_weights(ctx: Context, torch: Any, facts: Dict[str, Any]) -> Any:
    """The module; `facts` takes what is to be told of how its weights were made."""
    kind, _, value = ctx.job.model.weights.partition(":")
    if kind == "random" and value.isdigit():
        return _random(ctx, torch, int(value))
    if kind == "digits" and value.isdigit():
        torch.manual_seed(int(value))
        module = build(ctx, **_initialised(ctx.job.model.name))
        facts.update(digits_recipe.train(ctx, torch, module, int(value)))
        return module
    if kind == "default" and not value:
        return _published(ctx)
    if kind == "sha256":
        return _from_file(ctx, torch, value)
    raise Unsupported(
        "weights {!r} are not known".format(ctx.job.model.weights),
        "Give `random:SEED` or `digits:SEED` with a whole number, `default` or `sha256:HEX`.",
        "unknown-weights",
    )


def _initialised(name: str) -> Dict[str, Any]:
    """What makes the two families that can leave it out initialise their weights: training needs it."""
    return {"init_weights": True} if name in _WITH_AUXILIARY else {}


def _random(ctx: Context, torch: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    if ctx.job.model.source == ENCODER:
        with _uninitialised(torch):
            module = build(ctx)
        encoders.draw(torch, module)
        return module
    module = build(ctx)
    _fill_zero_heads(torch, module)
    _calm_branches(torch, module)
    _settle(torch, module, ctx.job.model.input_shape)
    return module


def _fill_zero_heads(torch: Any, module: Any) -> None:
    """Give linear layers that start at zero (ViT's head) weights: outputs that are all zero compare as equal always."""
    for part in module.modules():
        if isinstance(part, torch.nn.Linear) and not part.weight.any():
            torch.nn.init.trunc_normal_(part.weight, std=0.02)


def _calm_branches(torch: Any, module: Any) -> None:
    """Scale the last BatchNorm of each of ResNet's residual branches, as training does.

    At scale 1 every block adds as much as it passes on, and rounding grows with depth: two sound fp32 implementations
    of resnet152 then differ by more than 1e-3 in a third of all outputs, as both do from float64. Training starts from
    0 to keep deep networks tame (P. Goyal et al., arXiv 1706.02677; torchvision's `zero_init_residual`); here 0 would
    let a compiler remove the branch.
    """
    for part in module.modules():
        last = {"BasicBlock": "bn2", "Bottleneck": "bn3"}.get(type(part).__name__)
        if last is not None:
            torch.nn.init.constant_(getattr(part, last).weight, _BRANCH_SCALE)


def _settle(torch: Any, module: Any, shape: Any) -> None:
    """Set BatchNorm's running statistics to those of two random batches.

    Untouched random weights give outputs near 1e-9 or 1e7, and a mismatch that means nothing; settled, they are near 1.
    Only BatchNorm is in training mode, so dropout and stochastic depth play no part.
    """
    norms = [m for m in module.eval().modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over the forwards
        norm.train()
    with torch.no_grad():
        for _ in range(_SETTLE_FORWARDS):
            module(torch.rand((_SETTLE_BATCH, *shape)))
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.eval()


def _published(ctx: Context) -> Any:
    try:
        return build(ctx, weights="DEFAULT")
    except (OSError, RuntimeError) as error:
        raise WeightsUnavailable(
            "the published weights of {} could not be had: {}".format(ctx.job.model.name, _last_line(error)),
            "Weights `default` are downloaded by torchvision, so this worker needs a network, or the file in "
            "torch's hub directory (TORCH_HOME). Without either use `random:0`, or a state dict by `sha256:HEX`.",
        ) from error


def _from_file(ctx: Context, torch: Any, sha256: str) -> Any:
    path = ctx.request.model_file
    if path is None:
        raise WeightsUnavailable("the state dict {} was not fetched for this run".format(sha256))
    try:
        matches = sha256_file(path) == check_sha256(sha256)
    except (OSError, ValueError) as error:
        raise WeightsUnavailable("the state dict {} cannot be read: {}".format(sha256, error)) from error
    if not matches:
        raise DamagedModel("{} does not have the sha256 {}".format(path, sha256), "Fetch it from the store again.")
    module = build(ctx)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if ctx.job.model.name in _WITH_AUXILIARY:
            state = {k: v for k, v in state.items() if not k.startswith(_AUXILIARY)}
        if ctx.job.model.source == ENCODER:
            state = encoders.own(state)
        module.load_state_dict(state)
    except Exception as error:  # a boundary: a foreign file may fail in any way
        raise DamagedModel(
            "the state dict does not load into {}: {}".format(ctx.job.model.name, _last_line(error)),
            "It must be the `state_dict()` of this model with {} classes, saved by torch.save.".format(
                datasets.classes(ctx.job)
            ),
        ) from error
    return module


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
