# SPDX-License-Identifier: Apache-2.0
"""One conversion by TF-TRT: a SavedModel in, another with engines for one batch out, and what became of the graph.

TF-TRT's implicit batch dimension is kept, its own default: an engine is built for the shape that it is shown, and would
also take smaller batches. So each batch has its own SavedModel, and int8 is calibrated at that batch: the engine that
calibration leaves is the one that runs.
"""

import glob
import os
from typing import Any, Callable, Dict, FrozenSet, Iterator, List, Tuple

from workers.workflows.errors import BuildOutOfMemory, PrecisionNotHeld, WorkflowError, is_out_of_memory
from workers.workflows.keras_models import SIGNATURE
from workers.workflows.partition import Partition
from workers.workflows.tensorflow_graph import Functions, canonical, engines, functions_of, partition

_MODES = {"fp32": "FP32", "tf32": "FP32", "fp16": "FP16", "int8": "INT8"}
_ENGINE_FILE = "trt-serialized-engine."

#: Gives the inputs to show, each in the layout of the model's input.
Inputs = Callable[[], Iterator[Any]]


def settings(precision: str, options: Dict[str, Any]) -> Dict[str, Any]:
    """The converter's arguments, as plain JSON; what an option leaves out is the library's own default."""
    found: Dict[str, Any] = {
        "precision_mode": _MODES[precision],
        # One shape is shown, and int8 is calibrated with it.
        "maximum_cached_engines": 1,
        "use_calibration": precision == "int8",
        "allow_build_at_runtime": False,
    }
    if options.get("minimum_segment_size") is not None:
        found["minimum_segment_size"] = options["minimum_segment_size"]
    if options.get("workspace_mib") is not None:
        found["max_workspace_size_bytes"] = options["workspace_mib"] << 20
    return found


def convert(
    tf: Any, converter_module: Any, source: str, target: str, arguments: Dict[str, Any], shown: Inputs, data: Inputs
) -> Dict[str, Any]:
    """Convert the SavedModel in `source`, build its engines for what `shown` gives, write it to `target`.

    `data` gives the calibration batches, of the shape of `shown`. Returns facts.

    Raises:
        WorkflowError: TF-TRT failed, or no engine came of it.
        BuildOutOfMemory: memory ran out.
        PrecisionNotHeld: an engine is of another precision, or was not calibrated.
    """
    try:
        converter = converter_module.TrtGraphConverterV2(
            input_saved_model_dir=source, input_saved_model_signature_key=SIGNATURE, **arguments
        )
        calibrated = arguments["use_calibration"]
        function = converter.convert(calibration_input_fn=_fed(tf, data)) if calibrated else converter.convert()
        converter.build(input_fn=_fed(tf, shown))
        converter.save(target, save_gpu_specific_engines=True)
    except Exception as error:  # a boundary: TensorFlow raises what its kernels say, RuntimeError and ValueError
        raise _explained(error) from error
    functions = functions_of(tf, function.graph.as_graph_def())
    plans = plan_bytes(tf, target)
    found = partition(functions, frozenset(plans))
    check(functions, found, frozenset(plans), arguments["precision_mode"])
    return dict(
        found.facts("tensorflow"),
        fallback_node_share=found.share_left(),
        plan_bytes=plans,
        settings=arguments,
        nodes_of_engines=sorted(canonical(node.name) for node in engines(functions)),
    )


def _fed(tf: Any, inputs: Inputs) -> Callable[[], Iterator[Tuple[Any]]]:
    """As the converter asks for inputs: a function that begins anew each time."""

    def give() -> Iterator[Tuple[Any]]:
        for batch in inputs():
            yield (tf.constant(batch),)

    return give


def plan_bytes(tf: Any, directory: str) -> Dict[str, int]:
    """Of each engine that was written the size, by its canonical name. TF-TRT writes none that failed to build."""
    found = {}
    for path in glob.glob(os.path.join(glob.escape(directory), "assets", _ENGINE_FILE + "*")):
        sizes = [len(record) for record in tf.data.TFRecordDataset(path).as_numpy_iterator()]
        if sum(sizes):
            found[os.path.basename(path)[len(_ENGINE_FILE) :]] = sum(sizes)
    return found


def check(functions: Functions, found: Partition, built: FrozenSet[str], mode: str) -> None:
    """Raise unless there is an engine, and each is of the precision asked for."""
    nodes = engines(functions)
    if not found.engines:
        failed = [node.name for node in nodes if canonical(node.name) not in built]
        raise WorkflowError(
            "TF-TRT made no engine and left all {} operators to TensorFlow{}: {}".format(
                found.total,
                " ({} could not be built)".format(len(failed)) if failed else "",
                ", ".join(found.left[:5]),
            ),
            "That would measure TensorFlow. Lower the option `minimum_segment_size`, look at the run's log, where "
            "TF-TRT says why, or use `tensorflow` or `onnx_tensorrt`.",
            "no-engine",
        )
    check_modes([(node.name, node.precision) for node in nodes], mode)


def check_modes(found: List[Tuple[str, Any]], mode: str) -> None:
    """Raise PrecisionNotHeld unless every engine's node has the precision mode."""
    other = ["{} is {}".format(name, precision) for name, precision in found if precision != mode]
    if other:
        raise PrecisionNotHeld("{} was asked for, and {}".format(mode, ", ".join(other[:5])))


def _explained(error: Exception) -> Exception:
    if isinstance(error, WorkflowError):
        return error
    text = str(error).strip() or type(error).__name__
    if is_out_of_memory(error) or type(error).__name__ == "ResourceExhaustedError":
        return BuildOutOfMemory(
            "memory ran out while TF-TRT built: {}".format(text), "Smaller batches of the ladder may fit."
        )
    return WorkflowError(
        "TF-TRT could not convert the model: {}".format(text),
        "The run's log has what TensorFlow and TensorRT said. `tensorflow` runs the model without TF-TRT.",
        "build-failed",
    )
