# SPDX-License-Identifier: Apache-2.0
"""What a job is fed with: random numbers (`uniform`), or images with classes (`digits`, `imagenet`).

Images have two parts. Measuring and accuracy take the test part, calibration and training the training part, so no
model is tested on what it was made from.
"""

from typing import Any, Dict, Iterator, Optional, Tuple

from farm.contract.job import JobSpec
from workers.workflows import digits, image_folder
from workers.workflows.base import versions
from workers.workflows.errors import DataUnavailable, Unsupported, WorkflowError

#: Images in one batch where the caller needs none of a certain size.
BATCH = 64
#: Of an image folder, training takes an evenly spread part: 224 x 224 images of it need 1.2 GB.
MOST_TRAINING_IMAGES = 2048


def has_images(job: JobSpec) -> bool:
    """Whether the job's data are images with classes."""
    return job.data != "uniform"


def classes(job: JobSpec) -> int:
    """How many classes the job's model tells apart: 10 with digits as data or as weights, else 1000 (ImageNet's)."""
    trained = job.model.weights.startswith("digits:")
    return digits.CLASSES if trained or job.data == "digits" else 1000


def identity(job: JobSpec, part: str) -> Dict[str, Any]:
    """All that the data of a part, `train` or `test`, depend on but the input's shape: for cache keys.

    Raises:
        DataUnavailable: the image folder is not there.
    """
    own: Dict[str, Any] = {"data": job.data, "seed": job.seed}
    if job.data == "digits":
        own["recipe"] = digits.RECIPE
    if job.data == "imagenet":
        folder = image_folder.identity(_path(job), part)
        own.update(folder, part=part, decoder=versions("PIL"))
    return own


def part_of(job: JobSpec, part: str, limit: Optional[int] = None) -> Any:
    """The images of a part, `train` or `test`: it has a length, `labels` (int64) and `images(indices)`.

    `limit` takes that many of it, evenly spread.

    Raises:
        Unsupported: the data have no images, or the model takes no images.
        DataUnavailable: the image folder cannot be used.
    """
    shape = tuple(job.model.input_shape)
    if len(shape) != 3 or (job.data == "imagenet" and shape[0] != 3):
        raise Unsupported(
            "data {!r} are images, and the model's input is {}".format(job.data, shape),
            "Images need an input of [C, H, W], those of an image folder three channels.",
            "input-shape-unsupported",
        )
    if job.data == "digits":
        return digits.Digits(part, shape, limit)
    if job.data == "imagenet":
        # How many outputs an ONNX file has is known once it has run.
        outputs = None if job.model.source == "onnx" else classes(job)
        return image_folder.ImageFolder(_path(job), part, shape, outputs, limit)
    raise Unsupported(
        "data {!r} have no classes".format(job.data), "Set `data: digits` or `data: imagenet`.", "data-without-classes"
    )


def labelled_training(job: JobSpec) -> Tuple[Any, Any]:
    """Images float32 (N, C, H, W) and classes int64 (N,) to train with, all of digits, 2048 of an image folder.

    Raises:
        Unsupported, DataUnavailable: as `part_of`.
    """
    part = part_of(job, "train", MOST_TRAINING_IMAGES if job.data == "imagenet" else None)
    return part.images(list(range(len(part)))), part.labels


def test_part(job: JobSpec) -> Any:
    """The test part, or as much of it as the job's `accuracy.limit` says; see `part_of`."""
    return part_of(job, "test", job.accuracy.limit if job.accuracy else None)


def labelled_test(job: JobSpec, batch: int = BATCH) -> Iterator[Tuple[Any, Any]]:
    """The test part in order, as (images, classes) of `batch` samples, the last perhaps fewer.

    Raises:
        Unsupported, DataUnavailable: as `part_of`.
    """
    part = test_part(job)
    for start in range(0, len(part), batch):
        end = min(start + batch, len(part))
        yield part.images(list(range(start, end))), part.labels[start:end]


def calibration_images(job: JobSpec, stream: Any, samples: int) -> Tuple[Any, Any]:
    """The training part, and which of its images to calibrate with: a seeded order, whatever the batch is.

    Raises:
        Unsupported, DataUnavailable: as `part_of`; fewer images than `samples`.
    """
    part = part_of(job, "train")
    if samples > len(part):
        raise DataUnavailable(
            "calibration asks for {} samples, and {} has {} training images".format(samples, job.data, len(part)),
            "Set `calibration.samples` to at most {}.".format(len(part)),
            "too-few-images",
        )
    return part, stream.permutation(len(part))[:samples]


def _path(job: JobSpec) -> str:
    if not job.data_path:
        raise WorkflowError("the job names no image folder", "Set `accuracy.path` in the sweep.", "bad-request")
    return job.data_path
