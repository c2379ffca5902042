# SPDX-License-Identifier: Apache-2.0
"""A torch model quantised in PyTorch: weights -> ranges -> (trained) -> ONNX with Q/DQ nodes, each cached."""

import copy
import json
from typing import Any, Dict, Iterator, List, Tuple

from farm.contract.canonical import short_digest
from farm.contract.job import Calibration
from farm.contract.run import Mismatch
from workers.workflows import datasets, reference
from workers.workflows.base import Context, versions
from workers.workflows.cache import CachedFile
from workers.workflows.errors import PrecisionNotHeld, Unsupported
from workers.workflows.inputs import calibration_batches
from workers.workflows.onnx_files import OPSET, check_input, examine, export
from workers.workflows.toolkits import choose, toolkit
from workers.workflows.torch_models import TorchModel
from workers.workflows.torch_setup import import_torch

RECIPE = 1
EPOCHS = 2
LEARNING_RATE = 1e-4


class QuantizedTorchModel:
    """The source of a job's Q/DQ file. `rewrite(path)` makes the exported file, in place, what the runtime wants.

    `rewriting` names that in the key of the file.
    """

    reference_name = "pytorch fp32"
    no_reference = None

    def __init__(self, ctx: Context, rewriting: str, rewrite: Any) -> None:
        self._ctx, self._rewriting, self._rewrite = ctx, rewriting, rewrite
        options = ctx.job.options
        self.calibration = ctx.job.calibration or Calibration()
        self.per_channel = options.get("per_channel", True)
        self.mode = options.get("mode", "ptq")
        self.epochs = int(options.get("epochs", EPOCHS))
        self.learning_rate = float(options.get("learning_rate", LEARNING_RATE))
        self._model = TorchModel(ctx)
        self._check()
        self.library = choose(options.get("library", "auto"))

    def load_model(self) -> None:
        """Make the weights."""
        self._model.weights()

    def ranges(self) -> CachedFile:
        """The calibration: a JSON file of quantizer -> range."""
        return self._ctx.cached(
            "calibration", self._ranges_key(), "ranges.json", self._calibrate, ready=self._ready,
            upstream_s=lambda: self._model.weights().total_build_s,
        )  # fmt: skip

    def trained(self) -> CachedFile:
        """With `mode: qat`, the state dict of the model trained with these ranges."""
        return self._ctx.cached(
            "weights_qat", self._trained_key(), "weights.pt", self._train, ready=self.ranges,
            upstream_s=lambda: self.ranges().total_build_s,
        )  # fmt: skip

    def onnx(self) -> CachedFile:
        """The file to run; its facts are those of `onnx_files.examine`, and what was done to the model."""
        before = self.trained if self.mode == "qat" else self.ranges
        return self._ctx.cached(
            "onnx_qdq", self._onnx_key(), "model.onnx", self._export, ready=before,
            upstream_s=lambda: before().total_build_s,
        )  # fmt: skip

    def prepare_reference(self) -> None:
        """PyTorch fp32 outputs, with the weights as they were before any training here, for each batch size."""
        reference.prepare_torch(self._ctx, self._model)

    def compare(self, outputs: List[Tuple[str, Any]]) -> List[Mismatch]:
        """Against PyTorch fp32."""
        return reference.compare(self._ctx, outputs, reference.torch_key(self._ctx, self._model.key()))

    def effective(self) -> Dict[str, Any]:
        """How it was quantised, and with what."""
        facts, calibration = self.onnx().facts, self.calibration
        held = {
            "library": versions(self.library)[self.library],
            "mode": self.mode,
            "calibration": {
                "method": calibration.method,
                "samples": calibration.samples,
                "batch": calibration.batch,
                "percentile": calibration.percentile if calibration.method == "percentile" else None,
                "ranges": short_digest(self._ranges_key()),
            },
            "per_channel": self.per_channel,
            "quantizers": facts["quantizers"],
            "quantized_nodes": {
                "compute": facts["compute"],
                "compute_quantized": facts["compute_quantized"],
                "share": facts["compute_quantized"] / max(facts["compute"], 1),
            },
        }
        if self.mode == "qat":
            training = dict(self.trained().facts, epochs=self.epochs, learning_rate=self.learning_rate)
            held["training"] = training
        return held

    def _check(self) -> None:
        if self.mode not in ("ptq", "qat"):
            raise Unsupported("option mode is ptq or qat, not {!r}".format(self.mode), None, "unknown-option")
        if not isinstance(self.per_channel, bool):
            raise Unsupported("option per_channel is true or false, not {!r}".format(self.per_channel))
        if self.mode == "qat" and not datasets.has_images(self._ctx.job):
            raise Unsupported(
                "data {!r} have no classes, and training needs them".format(self._ctx.job.data),
                "Set `data: digits` or `data: imagenet`, or leave `mode: qat` out.",
                "data-without-classes",
            )

    def _ranges_key(self) -> Dict[str, Any]:
        job, calibration = self._ctx.job, self.calibration
        key: Dict[str, Any] = {
            "model": self._model.key(),
            "library": self.library,
            "versions": versions(self.library, "torch", "numpy"),
            "method": calibration.method,
            "samples": calibration.samples,
            "batch": calibration.batch,
            "per_channel": self.per_channel,
            "data": datasets.identity(job, "train"),
            "recipe": RECIPE,
        }
        return dict(key, percentile=calibration.percentile) if calibration.method == "percentile" else key

    def _trained_key(self) -> Dict[str, Any]:
        own = {"epochs": self.epochs, "learning_rate": self.learning_rate, "threads": self._ctx.threads}
        return dict(own, ranges=self._ranges_key(), seed=self._ctx.job.seed, recipe=RECIPE)

    def _onnx_key(self) -> Dict[str, Any]:
        made_from = self._trained_key() if self.mode == "qat" else self._ranges_key()
        own = {"opset": OPSET, "rewriting": self._rewriting, "versions": versions("onnx"), "recipe": RECIPE}
        return dict(own, made_from=made_from)

    def _ready(self) -> None:
        self._model.module()
        toolkit(self.library).quantizer_class()

    def _inserted(self) -> Tuple[Any, Any]:
        """A copy of the model with quantizers, and those that are on."""
        from workers.workflows.quantizers import quantizers_of

        tools = toolkit(self.library)
        with_histograms = self.calibration.method != "minmax"
        module = tools.insert(copy.deepcopy(self._model.module()), self.per_channel, with_histograms)
        found = quantizers_of(module, tools.quantizer_class())
        if not any(name.endswith("weight_quantizer") for name, _ in found):
            raise Unsupported(
                "{} puts no quantizer into {}: it has no layer that the library quantises".format(
                    self.library, self._ctx.job.model.name
                ),
                "Measure the model in another precision.",
                "nothing-quantized",
            )
        return module.eval(), found

    def _calibrate(self, path: str) -> Dict[str, Any]:
        from workers.workflows.quantizers import calibrate

        module, quantizers = self._inserted()
        found = calibrate(module, quantizers, self._batches(), self.calibration)
        with open(path, "w", encoding="utf-8") as stream:
            json.dump(found, stream, sort_keys=True, allow_nan=False)
        return {"quantizers": len(found), "without_range": sum(value is None for value in found.values())}

    def _batches(self) -> Iterator[Any]:
        seen = 0
        for batch in calibration_batches(self._ctx.job, self.calibration):
            yield batch
            seen += len(batch)
            self._ctx.progress(min(seen / self.calibration.samples, 1.0))

    def _calibrated(self, state: Any = None) -> Any:
        """A copy of the model that quantises with the ranges found, with the weights of `state` where it is given."""
        from workers.workflows.quantizers import set_ranges

        module, quantizers = self._inserted()
        if state is not None:  # before the ranges, since a quantizer that has one expects it among the weights
            module.load_state_dict(state)
        with open(self.ranges().path, encoding="utf-8") as stream:
            set_ranges(quantizers, json.load(stream))
        return module

    def _train(self, path: str) -> Dict[str, Any]:
        from workers.workflows.fine_tuning import fine_tune

        torch, module = import_torch(self._ctx), self._calibrated()
        images, labels = datasets.labelled_training(self._ctx.job)
        loss = fine_tune(
            module, images, labels, self.epochs, self.learning_rate, self._ctx.job.seed, self._ctx.progress
        )
        names = set(self._model.module().state_dict())
        torch.save({name: value for name, value in module.state_dict().items() if name in names}, path)
        return {"loss": loss, "images": len(images)}

    def _export(self, path: str) -> Dict[str, Any]:
        torch, model, state = import_torch(self._ctx), self._ctx.job.model, None
        if self.mode == "qat":
            state = torch.load(self.trained().path, map_location="cpu", weights_only=True)
        module = self._calibrated(state)
        with toolkit(self.library).exporting():
            export(torch, module, model.input_shape, path, fallback=False, input_type=model.input_type)
        self._rewrite(path)
        facts = dict(examine(path), exporter="torchscript", quantizers=self._active(module))
        check_input(facts, model.input_shape, model.input_type)
        if not facts["compute_quantized"]:
            raise PrecisionNotHeld("no convolution and no matrix product of the exported model is quantised")
        return facts

    def _active(self, module: Any) -> int:
        from workers.workflows.quantizers import quantizers_of

        return len(quantizers_of(module, toolkit(self.library).quantizer_class()))


def rewritten(path: str, *steps: Any) -> None:
    """Apply functions of a `qdq_graph.Graph` to an ONNX file in place."""
    import onnx

    from workers.workflows.qdq_graph import Graph

    graph = Graph(onnx.load(path))
    for step in steps:
        step(graph)
    onnx.save(graph.write(), path)
