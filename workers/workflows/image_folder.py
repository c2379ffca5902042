# SPDX-License-Identifier: Apache-2.0
"""A local folder of images in folders by class, as torchvision's ImageFolder reads it; never downloaded.

PATH/train and PATH/val hold class folders, or PATH itself does, which is then a test part only. Classes are numbered by
name. An image becomes the model's input in the usual way: the shorter side to 256/224 of the input, its centre cut out,
values 0..1 normalised with ImageNet's mean and standard deviation.
"""

import functools
import os
from typing import Any, Dict, List, Optional, Tuple

from farm.contract.canonical import digest
from workers.workflows.base import require
from workers.workflows.digits import spread
from workers.workflows.errors import DataUnavailable

#: Counts changes of how images are chosen and brought to size; part of every cache key.
RECIPE = 1
#: As torchvision.datasets.folder.IMG_EXTENSIONS.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_PARTS = {"train": "train", "test": "val"}


class ImageFolder:
    """One part, `train` or `test`, or an evenly spread `limit` of its images.

    `outputs` is how many classes the model tells apart, where that is known.

    Raises:
        DataUnavailable: the part is not there, holds no class, a class without images, or more than `outputs` classes.
    """

    def __init__(
        self, path: str, part: str, shape: Tuple[int, ...], outputs: Optional[int], limit: Optional[int] = None
    ) -> None:
        import numpy as np

        self._root = part_folder(path, part)
        self._shape = shape
        names, listed = _listing(self._root)
        if outputs is not None and len(names) > outputs:
            raise DataUnavailable(
                "{} has {} class folders, more than the model's {} classes".format(self._root, len(names), outputs),
                "Give a folder whose class folders, sorted by name, are the model's outputs.",
            )
        chosen = spread(len(listed), limit)
        self._files = [listed[i][0] for i in chosen]
        self.labels = np.array([listed[i][2] for i in chosen], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._files)

    def images(self, indices: Any) -> Any:
        """float32 (N, C, H, W), normalised. Raises DataUnavailable, naming a file that is no image."""
        import numpy as np

        return np.stack([self._image(os.path.join(self._root, self._files[int(i)])) for i in indices])

    def _image(self, path: str) -> Any:
        image = require("PIL.Image")
        try:
            with image.open(path) as opened:
                return to_input(opened.convert("RGB"), self._shape)
        except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
            raise DataUnavailable(
                "{} cannot be read as an image: {}".format(path, error),
                "Replace or remove the file; the whole data set is read as it lies there.",
                "image-unreadable",
            ) from error


def identity(path: str, part: str) -> Dict[str, Any]:
    """What stands for a part's files: its folder and a digest over their names and sizes."""
    root = part_folder(path, part)
    return {"folder": root, "listing": _listing_digest(root), "recipe": RECIPE}


def part_folder(path: str, part: str) -> str:
    """The folder with the class folders of a part. Raises DataUnavailable."""
    if not os.path.isdir(path):
        raise DataUnavailable(
            "the image folder {} is not there".format(path),
            "It is read from the worker host's own disk: put it there, or give the path that it has there.",
        )
    own = os.path.join(path, _PARTS[part])
    if os.path.isdir(own):
        return own
    if part == "test" and not os.path.isdir(os.path.join(path, "train")):
        return path
    raise DataUnavailable(
        "{} has no folder {!r}".format(path, _PARTS[part]),
        "Put class folders with training images there: calibration takes none of the test images."
        if part == "train"
        else "Put class folders with the test images there.",
    )


@functools.lru_cache(maxsize=8)
def _listing(root: str) -> Tuple[List[str], List[Tuple[str, int, int]]]:
    """Class names, and each file as (path below `root`, bytes, class), in torchvision's order."""
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    if not names:
        raise DataUnavailable(
            "{} holds no class folders".format(root), "Put each class's images in a folder of its own."
        )
    files: List[Tuple[str, int, int]] = []
    for index, name in enumerate(names):
        before = len(files)
        for directory, _, found in sorted(os.walk(os.path.join(root, name), followlinks=True)):
            for file in sorted(f for f in found if f.lower().endswith(EXTENSIONS)):
                path = os.path.join(directory, file)
                files.append((os.path.relpath(path, root), os.path.getsize(path), index))
        if len(files) == before:
            raise DataUnavailable(
                "the class folder {} holds no image".format(os.path.join(root, name)),
                "An empty class shifts no number, but its share is missing: remove the folder or fill it.",
            )
    return names, files


@functools.lru_cache(maxsize=8)
def _listing_digest(root: str) -> str:
    return digest([list(file) for file in _listing(root)[1]])


def to_input(image: Any, shape: Tuple[int, ...]) -> Any:
    """float32 (C, H, W) as torchvision's Resize, CenterCrop, ToTensor and Normalize make it."""
    import numpy as np

    _, height, width = shape
    short = max(height, width) * 256 // 224
    size = _resized(image.size, short)
    image = image.resize(size, require("PIL.Image").BILINEAR)
    left, top = round((size[0] - width) / 2.0), round((size[1] - height) / 2.0)
    image = image.crop((left, top, left + width, top + height))
    pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
    normal = (pixels - np.array(_MEAN, dtype=np.float32)) / np.array(_STD, dtype=np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


def _resized(size: Tuple[int, int], short: int) -> Tuple[int, int]:
    width, height = size
    if width <= height:
        return short, int(short * height / width)
    return int(short * width / height), short
