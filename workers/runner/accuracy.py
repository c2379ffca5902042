# SPDX-License-Identifier: Apache-2.0
"""Top-1 and top-5 over a job's test images, through the same workflow that is timed, at one batch size."""

from typing import Any, Dict

from workers.workflows import datasets
from workers.workflows.base import Workflow
from workers.workflows.errors import DataUnavailable, Unsupported

_TOP = 5


class Tally:
    """Counts of right answers. A row of outputs with a value that is not finite is a wrong answer, and counted."""

    def __init__(self) -> None:
        self.samples = 0
        self.classes = 0
        self.nonfinite = 0
        self._first = 0
        self._top = 0

    def add(self, logits: Any, labels: Any) -> None:
        """Count a batch: float (N, classes), int64 (N,).

        Among equal outputs the lower class comes first, as argmax has it.

        Raises:
            DataUnavailable: a label is none of the model's classes.
        """
        import numpy as np

        self.classes = logits.shape[1]
        if labels.max() >= self.classes:
            raise DataUnavailable(
                "the test images have {} classes or more, the model has {}".format(labels.max() + 1, self.classes),
                "Give images of the classes that the model was trained on, sorted by name as its outputs are.",
            )
        finite = np.isfinite(logits).all(axis=1)
        own = logits[np.arange(len(labels)), labels][:, None]
        before = np.arange(self.classes)[None, :] < labels[:, None]
        rank = ((logits > own) | ((logits == own) & before)).sum(axis=1)
        self.samples += len(labels)
        self.nonfinite += int((~finite).sum())
        self._first += int((finite & (rank == 0)).sum())
        self._top += int((finite & (rank < _TOP)).sum())

    def metrics(self) -> Dict[str, float]:
        """Shares, and of how many images. With fewer than five classes every answer would be among the first five."""
        found = {"top1": self._first / self.samples, "accuracy_samples": float(self.samples)}
        return dict(found, top5=self._top / self.samples) if self.classes >= _TOP else found

    def facts(self) -> Dict[str, Any]:
        """What the record keeps beside the shares."""
        return {"classes": self.classes, "nonfinite_rows": self.nonfinite, "right": self._first}


def evaluate(workflow: Workflow) -> Tally:
    """Run every test image of the job once. The last batch is filled up with images that are not counted.

    Raises:
        Unsupported: the model's first output is not (N, classes).
        DataUnavailable: the test images cannot be used.
    """
    ctx, tally = workflow.ctx, Tally()
    total = len(datasets.test_part(ctx.job))
    for images, labels in datasets.labelled_test(ctx.job, ctx.batch_size):
        tally.add(_logits(workflow, images), labels)
        ctx.progress(tally.samples / total)
    return tally


def _logits(workflow: Workflow, images: Any) -> Any:
    import numpy as np

    size = workflow.ctx.batch_size
    count = len(images)
    if count < size:
        images = np.ascontiguousarray(images[np.arange(size) % count])
    workflow.infer(workflow.to_device(images))
    workflow.synchronize()
    outputs = workflow.outputs()
    shape = outputs[0][1].shape if outputs else None
    if shape is None or len(shape) != 2 or shape[0] != size or shape[1] < 2:
        raise Unsupported(
            "the model's first output has shape {}, not (batch, classes)".format(shape),
            "Accuracy is for classifiers whose first output has one value for each class.",
            "no-class-scores",
        )
    return outputs[0][1][:count]
