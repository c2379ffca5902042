# SPDX-License-Identifier: Apache-2.0
"""Seeded inputs: float32, (N, C, H, W), uniform in [0, 1) or images; of text encoders int32 ids of tokens, (N, S).

The same seed gives the same in every process.

Measuring inputs and calibration data come from different streams of one seed, images also from different parts of their
data set, so no model is measured on what it was calibrated with.
"""

import glob
import math
import os
from typing import Any, Dict, Iterator, List, Optional, Tuple

from farm.contract.encoders import PADDING, VOCABULARY
from farm.contract.job import Calibration, JobSpec, ModelSpec
from workers.workflows import datasets

_MEASURING = 0
_CALIBRATION = 1

MOST_INPUTS = 64
MOST_BYTES = 256 * 1024 * 1024
#: Taken for the last-level cache where the host does not tell its size.
ASSUMED_CACHE_BYTES = 32 * 1024 * 1024


def input_bytes(shape: Tuple[int, ...], batch_size: int) -> int:
    """Size in bytes of one input of `batch_size` samples of `shape`: four for each number or token."""
    size = 4 * batch_size
    for extent in shape:
        size *= extent
    return size


def measuring_inputs(job: JobSpec, batch_size: int, count: int) -> List[Any]:
    """`count` distinct inputs. Input i of a batch size is the same whatever `count` is."""
    import numpy as np

    streams = [np.random.default_rng([_seed(job), _MEASURING, batch_size, i]) for i in range(count)]
    if datasets.has_images(job):
        part = datasets.part_of(job, "test")
        # A batch larger than the data set goes through it again.
        return [part.images(np.resize(stream.permutation(len(part)), batch_size)) for stream in streams]
    return [_drawn(stream, batch_size, job.model) for stream in streams]


def calibration_batches(job: JobSpec, calibration: Calibration, fixed: Optional[int] = None) -> Iterator[Any]:
    """`calibration.samples` samples in batches of `calibration.batch`; the batch does not change the samples.

    `fixed` is the batch of a model that takes no other: then full batches of it, as many as the samples need.

    Raises:
        Unsupported, DataUnavailable: the data set cannot be used, or has fewer training images than are needed.
    """
    import numpy as np

    stream = np.random.default_rng([_seed(job), _CALIBRATION])
    sizes = _batch_sizes(calibration, fixed)
    if not datasets.has_images(job):
        yield from (_drawn(stream, size, job.model) for size in sizes)
        return
    part, chosen = datasets.calibration_images(job, stream, sum(sizes))
    for i, size in enumerate(sizes):
        start = sum(sizes[:i])
        yield part.images(chosen[start : start + size])


def blank(model: ModelSpec, batch_size: int) -> Any:
    """An input whose values play no part, of the shape and type that the model takes: zeros."""
    import numpy as np

    return np.zeros((batch_size, *model.input_shape), dtype=model.input_type)


def _drawn(stream: Any, batch_size: int, model: ModelSpec) -> Any:
    """Numbers in [0, 1), or ids of the whole vocabulary but for padding: sequences are full."""
    import numpy as np

    shape = (batch_size, *model.input_shape)
    if model.sequence is None:
        return stream.random(shape, dtype=np.float32)
    return stream.integers(PADDING + 1, VOCABULARY, shape, dtype=np.int32)


def _batch_sizes(calibration: Calibration, fixed: Optional[int]) -> List[int]:
    size, samples = fixed or calibration.batch, calibration.samples
    full = [size] * (samples // size)
    rest = samples % size
    return full + ([fixed or rest] if rest else [])


def rotation(protocol_inputs: str, bytes_each: int, cache: Optional[int]) -> Dict[str, Any]:
    """How many distinct inputs to take in turn, and why: facts for the record. `cache` is the device's, in bytes.

    `rotated` takes at least two, enough for twice the last-level cache (so that no input is still cached when its turn
    comes again), at most 64 and at most 256 MB; one input that is larger than that on its own needs no second.
    """
    facts = {"inputs": protocol_inputs, "input_bytes": bytes_each, "llc_bytes": cache}
    if protocol_inputs == "warm" or bytes_each == 0:
        return dict(facts, input_count=1)
    wanted = math.ceil(2 * (cache or ASSUMED_CACHE_BYTES) / bytes_each)
    count = min(max(wanted, 2), MOST_INPUTS, max(MOST_BYTES // bytes_each, 1))
    return dict(facts, input_count=count)


def last_level_cache_bytes() -> Optional[int]:
    """Size of the largest data cache that CPU 0 sees, from /sys; None where the host does not tell."""
    sizes = []
    for index in glob.glob("/sys/devices/system/cpu/cpu0/cache/index*"):
        try:
            with open(os.path.join(index, "type"), encoding="ascii") as stream:
                kind = stream.read().strip()
            with open(os.path.join(index, "size"), encoding="ascii") as stream:
                size = stream.read().strip()
        except OSError:
            continue
        if kind != "Instruction" and size[-1:] in ("K", "M"):
            sizes.append(int(size[:-1]) * (1024 if size[-1] == "K" else 1024 * 1024))
    return max(sizes) if sizes else None


def _seed(job: JobSpec) -> int:
    return job.seed % 2**63
