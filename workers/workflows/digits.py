# SPDX-License-Identifier: Apache-2.0
"""The digits data set: 1797 real images of hand-written digits, which come with the farm (see data/README.md).

8 x 8 pixels of 0..16 become the model's input: divided by 16, brought to its size bilinearly (half-pixel centres), the
same plane in every channel. 1437 images are for training and 360 for testing, each class in proportion; which are
which is drawn once, from a seed of the farm's own, and never depends on a job.
"""

import csv
import functools
import gzip
import io
import os
from typing import Any, List, Optional, Tuple

CLASSES = 10
TRAINING_IMAGES = 1437
TEST_IMAGES = 360
#: Counts changes of the split and of how images are brought to size; part of every cache key.
RECIPE = 1

_FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "digits.csv.gz")
_SPLIT_SEED = 20240229
_SIDE = 8


class Digits:
    """One part, `train` or `test`, or an evenly spread `limit` of it; `shape` is one sample's, (C, H, W)."""

    def __init__(self, part: str, shape: Tuple[int, ...], limit: Optional[int] = None) -> None:
        rows = split()[0 if part == "train" else 1]
        rows = rows[spread(len(rows), limit)]
        planes, labels = read()
        self.labels = labels[rows]
        self._planes = planes[rows]
        self._shape = shape

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Any) -> Any:
        """float32 (N, C, H, W), values 0..1."""
        import numpy as np

        channels, height, width = self._shape
        planes = resize(self._planes[indices].astype(np.float32) / np.float32(16), height, width)
        return np.ascontiguousarray(np.broadcast_to(planes[:, None], (len(planes), channels, height, width)))


@functools.lru_cache(maxsize=1)
def read() -> Tuple[Any, Any]:
    """All images, uint8 (1797, 8, 8), and their classes, int64."""
    import numpy as np

    with gzip.open(_FILE, "rb") as stream:
        text = stream.read().decode("ascii")
    table = np.array([[int(float(field)) for field in row] for row in csv.reader(io.StringIO(text))], dtype=np.int64)
    return table[:, :-1].astype(np.uint8).reshape(-1, _SIDE, _SIDE), table[:, -1]


@functools.lru_cache(maxsize=1)
def split() -> Tuple[Any, Any]:
    """Row numbers for training and for testing, each in ascending order.

    Of each class the share 360 / 1797 is for testing, rounded so that the largest remainders get the images left over.
    """
    import numpy as np

    labels = read()[1]
    shares = np.bincount(labels, minlength=CLASSES) * TEST_IMAGES / len(labels)
    counts = np.floor(shares).astype(np.int64)
    left_over = np.argsort(-(shares - counts), kind="stable")[: TEST_IMAGES - counts.sum()]
    counts[left_over] += 1
    generator = np.random.default_rng(_SPLIT_SEED)
    drawn = [generator.permutation(np.flatnonzero(labels == digit))[: counts[digit]] for digit in range(CLASSES)]
    test = np.sort(np.concatenate(drawn))
    return np.setdiff1d(np.arange(len(labels)), test), test


def spread(count: int, limit: Optional[int]) -> List[int]:
    """`limit` of `count` positions, evenly spread."""
    if limit is None or limit >= count:
        return list(range(count))
    return [(2 * i + 1) * count // (2 * limit) for i in range(limit)]


def resize(planes: Any, height: int, width: int) -> Any:
    """Bring float32 (N, h, w) to (N, height, width), bilinearly, as torch's `interpolate` without `align_corners`."""
    rows = _weights(planes.shape[1], height)
    columns = _weights(planes.shape[2], width)
    return rows @ planes @ columns.T


def _weights(size: int, wanted: int) -> Any:
    """float32 (wanted, size): each output pixel as a mean of its two neighbours."""
    import numpy as np

    centre = np.clip((np.arange(wanted) + 0.5) * size / wanted - 0.5, 0, size - 1)
    low = np.floor(centre).astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    found = np.zeros((wanted, size), dtype=np.float32)
    np.add.at(found, (np.arange(wanted), low), 1 - (centre - low))
    np.add.at(found, (np.arange(wanted), high), centre - low)
    return found
