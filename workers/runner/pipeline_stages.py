# SPDX-License-Identifier: Apache-2.0
"""The stages that an image goes through, from its file to its five best classes, each of them timed."""

from typing import Any, Callable, Dict, List, Tuple

from farm.contract.pipeline import STAGES
from workers.runner.measure import now_ns
from workers.workflows import jpeg_files
from workers.workflows.base import Workflow
from workers.workflows.errors import Unsupported
from workers.workflows.image_folder import to_input

TOP = 5

#: When something began and ended, by the runner's clock.
Span = Tuple[int, int]


class Spans:
    """Begin and end of every call of every stage. Appending is one step of the interpreter, so threads may share it."""

    def __init__(self) -> None:
        self.of: Dict[str, List[Span]] = {name: [] for name in STAGES}

    def timed(self, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call, and keep when that was."""
        begin = now_ns()
        found = call(*arguments)
        self.of[name].append((begin, now_ns()))
        return found


class Stages:
    """The stages of one model at one batch size. `device` and what it calls belong to the thread that loaded the model.

    A stage that only starts something on a device waits for it, so that its time is its own.
    """

    def __init__(self, workflow: Workflow, files: jpeg_files.JpegFiles) -> None:
        self._workflow = workflow
        self._paths = files.paths
        self._shape = tuple(workflow.ctx.job.model.input_shape)
        self.batch_size = workflow.ctx.batch_size

    def decode(self, number: int) -> Any:
        """The picture of one image; numbers go round the files."""
        return jpeg_files.decode(self._paths[number % len(self._paths)])

    def preprocess(self, picture: Any) -> Any:
        """float32 (C, H, W): shorter side to 256/224 of the input, the centre, normalised."""
        return to_input(picture, self._shape)

    def collate(self, images: List[Any]) -> Any:
        """One array (batch, C, H, W). Engines are built for a batch size: one that is not full repeats its images."""
        import numpy as np

        return np.stack([images[i % len(images)] for i in range(self.batch_size)])

    def device(self, spans: Spans, batch: Any) -> Any:
        """Copy in, run, copy out: the scores (batch, classes)."""
        placed = spans.timed("copy_in", self._copy_in, batch)
        spans.timed("infer", self._infer, placed)
        return spans.timed("copy_out", self._copy_out)

    def first(self, batch: Any) -> Any:
        """As `device` for the very first batch: libraries cannot be waited for before they have run."""
        self._infer(self._workflow.to_device(batch))
        return self._copy_out()

    def _copy_in(self, batch: Any) -> Any:
        placed = self._workflow.to_device(batch)
        self._workflow.synchronize()
        return placed

    def _infer(self, placed: Any) -> None:
        self._workflow.infer(placed)
        self._workflow.synchronize()

    def _copy_out(self) -> Any:
        outputs = self._workflow.outputs()
        shape = outputs[0][1].shape if outputs else None
        if shape is None or len(shape) != 2 or shape[0] != self.batch_size or shape[1] < 2:
            raise Unsupported(
                "the model's first output has shape {}, not (batch, classes)".format(shape),
                "The pipeline ends with the best classes: choose a classifier with one value for each class.",
                "no-class-scores",
            )
        return outputs[0][1]

    def postprocess(self, scores: Any, count: int) -> Any:
        """The five best classes of the first `count` images, best first, with their probabilities; the classes."""
        import numpy as np

        scores = np.asarray(scores[:count], dtype=np.float32)
        top = min(TOP, scores.shape[1])
        found = np.argpartition(-scores, top - 1, axis=1)[:, :top]
        order = np.argsort(-np.take_along_axis(scores, found, axis=1), axis=1, kind="stable")
        classes = np.take_along_axis(found, order, axis=1)
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities = np.take_along_axis(powers, classes, axis=1) / powers.sum(axis=1, keepdims=True)
        return classes, probabilities
