# SPDX-License-Identifier: Apache-2.0
"""Where a SavedModel comes from: made from a model of Keras, or given. Both end up in the cache, as one archive each.

Without its fingerprint, which newer versions of TensorFlow draw at random, the same seed gives the same archive.
"""

import os
import tempfile
from typing import Any, Callable, Dict, List, Tuple

from farm.contract.archive import files_below, pack
from farm.contract.canonical import sha256_file
from farm.contract.run import Mismatch
from workers.workflows import keras_models, reference
from workers.workflows.archive import unpack
from workers.workflows.base import Context, versions
from workers.workflows.cache import CachedFile
from workers.workflows.errors import DamagedModel, InputShapeMismatch, Unsupported, WorkflowError
from workers.workflows.keras_models import SIGNATURE

RECIPE = 1
FILE = "saved_model.zip"
KIND = "saved_model"
_FINGERPRINT = "fingerprint.pb"
_DTYPES = {"fp16": "float16"}
#: Of a SavedModel's directory, what has to be there.
GRAPH_FILE = "saved_model.pb"

Outputs = List[Tuple[str, Any]]
ImportTensorFlow = Callable[[], Any]


class SavedModelSource:
    """The SavedModel of a job. `tensorflow` imports the library, when something has to be made."""

    reference_name = "tensorflow fp32"

    def __init__(self, ctx: Context, tensorflow: ImportTensorFlow) -> None:
        self._ctx, self._tensorflow = ctx, tensorflow

    def key(self) -> Dict[str, Any]:
        """All that the float32 archive depends on."""
        raise NotImplementedError

    def model(self, precision: str = "fp32") -> CachedFile:
        """The archive whose weights are of a precision; of fp32 and tf32 the same. Raises Unsupported."""
        raise NotImplementedError

    def feed(self, batch: Any) -> Any:
        """A batch as the farm makes it, in the layout of the model's input; float32 and contiguous."""
        raise NotImplementedError

    def prepare_reference(self) -> None:
        """TensorFlow's fp32 outputs on the CPU for each batch size."""
        reference.prepare_with(self._ctx, self._reference_key(), self._forward)

    def compare(self, outputs: Outputs) -> List[Mismatch]:
        """Against those."""
        return reference.compare(self._ctx, outputs, self._reference_key())

    def _reference_key(self) -> Dict[str, Any]:
        return {
            "engine": "tensorflow",
            "model": self.model().sha256,
            "versions": versions("tensorflow", "numpy"),
            "threads": self._ctx.threads,
        }

    def _forward(self) -> Callable[[Any], Outputs]:
        tf = self._tensorflow()
        with tf.device("/CPU:0"):
            served = open_saved_model(tf, self.model(), os.path.join(self._ctx.control_dir, "reference_model"))

        def forward(batch: Any) -> Outputs:
            with tf.device("/CPU:0"):
                found = served(tf.constant(self.feed(batch)))
            places = sorted({tensor.device.rpartition("/")[2] for tensor in found.values()})
            if any("CPU" not in place for place in places):
                raise WorkflowError("the reference was computed on {} instead of the CPU".format(places))
            return as_arrays(found)

        return forward


class KerasSource(SavedModelSource):
    """A model of keras.applications."""

    def __init__(self, ctx: Context, tensorflow: ImportTensorFlow) -> None:
        keras_models.check(ctx.job.model)
        super().__init__(ctx, tensorflow)

    def key(self) -> Dict[str, Any]:
        """Model, seed, shape and versions."""
        return self._key("float32")

    def _key(self, dtype: str) -> Dict[str, Any]:
        return dict(keras_models.key(self._ctx, dtype), versions=versions("tensorflow", "keras"), packing=RECIPE)

    def model(self, precision: str = "fp32") -> CachedFile:
        """Made with float32 weights, or for fp16 with those rounded."""
        dtype = _DTYPES.get(precision, "float32")
        make = lambda path: self._make(dtype, path)  # noqa: E731 - a function of one argument, bound to the type
        return self._ctx.cached(KIND, self._key(dtype), FILE, make, ready=self._tensorflow)

    def _make(self, dtype: str, path: str) -> Dict[str, Any]:
        tf, shape = self._tensorflow(), self._ctx.job.model.input_shape
        # On the CPU wherever the job runs: a seed stands for the same weights on every device.
        with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as directory, tf.device("/CPU:0"):
            facts = keras_models.save(self._ctx, tf, dtype, directory)
            pack(directory, (name for name in files_below(directory) if name != _FINGERPRINT), path)
        signature = {"input": keras_models.INPUT, "outputs": [keras_models.OUTPUT]}
        return dict(facts, **signature, input_shape=[None, shape[1], shape[2], shape[0]])

    def feed(self, batch: Any) -> Any:
        """Channels last: TensorFlow's convolutions on CPUs take nothing else."""
        import numpy as np

        return np.ascontiguousarray(batch.transpose(0, 2, 3, 1))


class GivenSource(SavedModelSource):
    """A SavedModel from a person: an archive known by its sha256."""

    def __init__(self, ctx: Context, tensorflow: ImportTensorFlow) -> None:
        if ctx.job.model.onnx_sha256 is None:
            raise WorkflowError("the job names no sha256 for its SavedModel", None, "bad-request")
        if ctx.job.data != "uniform":
            raise Unsupported(
                "data {!r} are images with their channels first, and a SavedModel's input is its own".format(
                    ctx.job.data
                ),
                "Leave `data` and `accuracy` out.",
                "data-unsupported",
            )
        super().__init__(ctx, tensorflow)
        self._sha256: str = ctx.job.model.onnx_sha256

    def key(self) -> Dict[str, Any]:
        """The archive, and the shape that it was held against."""
        return {"file": self._sha256, "input_shape": list(self._ctx.job.model.input_shape), "recipe": RECIPE}

    def model(self, precision: str = "fp32") -> CachedFile:
        """As it was given."""
        if precision in _DTYPES:
            raise Unsupported(
                "a given SavedModel runs with the types it was saved with; this is {}".format(precision),
                "Save it in float16 and run that as fp32's variant, or use `tf_trt`, which converts to fp16 itself.",
                "precision-unsupported",
            )
        return self._ctx.cached(KIND, self.key(), FILE, self._take, ready=self._tensorflow)

    def _take(self, path: str) -> Dict[str, Any]:
        copy_given(self._ctx.request.model_file, self._sha256, path)
        tf = self._tensorflow()
        with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as directory, tf.device("/CPU:0"):
            unpack(path, directory)
            return examine(tf, directory, tuple(self._ctx.job.model.input_shape))

    def feed(self, batch: Any) -> Any:
        """As it is: the sweep gives the shape of the SavedModel's own input."""
        return batch


def source_of(ctx: Context, tensorflow: ImportTensorFlow) -> SavedModelSource:
    """The source of the job's SavedModel. Raises Unsupported for models that have none."""
    if ctx.job.model.source == "saved_model":
        return GivenSource(ctx, tensorflow)
    if ctx.job.model.source == "keras":
        return KerasSource(ctx, tensorflow)
    raise Unsupported(
        "{} cannot run models of source {!r}".format(ctx.job.workflow, ctx.job.model.source),
        "Give a model of Keras by name, such as keras_resnet50, or a `saved_model: DIRECTORY`.",
        "source-unsupported",
    )


class Served:
    """The serving signature of a loaded SavedModel. The object is kept, since its variables live as long as it does."""

    def __init__(self, loaded: Any, function: Any) -> None:
        self.loaded, self.function = loaded, function
        (self._name,) = function.structured_input_signature[1]

    def __call__(self, batch: Any) -> Dict[str, Any]:
        """Outputs by name."""
        found: Dict[str, Any] = self.function(**{self._name: batch})
        return found


def open_saved_model(tf: Any, entry: CachedFile, directory: str) -> Served:
    """Unpack an archive, unless that was done, and load its serving signature."""
    if not os.path.isdir(directory):
        unpack(entry.path, directory)
    loaded = tf.saved_model.load(directory)
    return Served(loaded, loaded.signatures[SIGNATURE])


def as_arrays(found: Dict[str, Any]) -> Outputs:
    """Outputs by name, in the order of the names, as float32 in host memory."""
    return [(name, found[name].numpy().astype("float32", copy=False)) for name in sorted(found)]


def copy_given(source: Any, sha256: str, path: str) -> None:
    """Copy the file of a request, held against its digest. Raises WorkflowError, DamagedModel."""
    import shutil

    if source is None:
        raise WorkflowError("the SavedModel {} was not fetched for this run".format(sha256))
    shutil.copyfile(source, path)
    if sha256_file(path) != sha256:
        raise DamagedModel("{} does not have the sha256 {}".format(source, sha256), "Fetch it from the store again.")


def examine(tf: Any, directory: str, shape: Tuple[int, ...]) -> Dict[str, Any]:
    """What the serving signature of an unpacked SavedModel takes and gives.

    Raises:
        DamagedModel: it does not load.
        Unsupported: it has no such signature, several inputs, another type than float32, or a fixed batch.
        InputShapeMismatch: one sample is not of `shape`.
    """
    try:
        loaded = tf.saved_model.load(directory)
    except Exception as error:  # a boundary: a foreign file may fail in any way
        raise DamagedModel("the SavedModel does not load: {}".format(error), "Save it again.") from error
    if SIGNATURE not in loaded.signatures:
        raise _unfit("it has no signature {}, but: {}".format(SIGNATURE, ", ".join(loaded.signatures) or "none"))
    function = loaded.signatures[SIGNATURE]
    inputs, outputs = function.structured_input_signature[1], function.structured_outputs
    if len(inputs) != 1:
        raise _unfit("it takes {} inputs: {}".format(len(inputs), ", ".join(sorted(inputs))))
    ((name, spec),) = inputs.items()
    floats = [spec.dtype, *(outputs[output].dtype for output in sorted(outputs))]
    if any(not dtype.is_floating for dtype in floats) or spec.dtype != tf.float32:
        raise _unfit("its input and outputs are {}".format(", ".join(dtype.name for dtype in floats)))
    extents = None if spec.shape.rank is None else spec.shape.as_list()
    if extents is not None and extents[0] is not None:
        raise _unfit("its batch is fixed at {}".format(extents[0]))
    if extents is not None and not _takes(extents[1:], shape):
        raise InputShapeMismatch(
            "the SavedModel's input {} is {}, and the sweep gives {}".format(name, extents[1:], list(shape)),
            "Correct the model's `input`: the shape of one sample, in the SavedModel's own order.",
        )
    return {"input": name, "outputs": sorted(outputs), "input_shape": extents}


def _takes(extents: List[Any], shape: Tuple[int, ...]) -> bool:
    return len(extents) == len(shape) and all(own in (None, given) for own, given in zip(extents, shape))


def _unfit(why: str) -> Unsupported:
    return Unsupported(
        "the SavedModel cannot be measured: {}".format(why),
        "Save it with a signature {} of one float32 input with a free batch, and float outputs.".format(SIGNATURE),
        "signature-unsupported",
    )
