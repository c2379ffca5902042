# SPDX-License-Identifier: Apache-2.0
"""JPEG files for the study of a pipeline: those of a local folder, or pictures made once; and how they are decoded.

A made picture is noise whose amplitude falls with the frequency, as in photographs, so that its file has about as many
bytes for a pixel as a photograph's, which is what decoding takes its time for. (Bytes a pixel: docs/pipeline.md.)
"""

import hashlib
import io
import os
import tempfile
from typing import Any, Dict, List, Tuple

from farm.contract.archive import pack
from farm.contract.job import JobSpec
from farm.contract.pipeline import GENERATED, PipelineSpec
from workers.workflows.archive import unpack
from workers.workflows.base import Context, require, versions
from workers.workflows.cache import CachedFile
from workers.workflows.digits import spread
from workers.workflows.errors import DataUnavailable, Unsupported

#: Counts changes of how pictures are made; part of their cache key.
RECIPE = 1
KIND = "pipeline_images"
EXTENSIONS = (".jpg", ".jpeg")

_FOLDER = "images"
#: Amplitude over frequency is 1 / f ** this: some 1.2 in the luminance of photographs, more in their colours.
_LUMA_SLOPE, _CHROMA_SLOPE = 1.2, 1.6
_LUMA_SPREAD, _CHROMA_SPREAD = 50.0, 18.0


class JpegFiles:
    """The files of one study, in order.

    Raises:
        DataUnavailable: the folder is not there, holds no JPEG file, or one of them is none.
    """

    def __init__(self, paths: List[str]) -> None:
        self.paths = paths
        self.bytes = 0
        found = hashlib.sha256()
        for path in paths:
            content = _read(path)
            self.bytes += len(content)
            found.update(hashlib.sha256(content).digest())
            decode(path)
        self.sha256 = found.hexdigest()


def check(job: JobSpec) -> None:
    """Refuse what no image can be made into. Raises Unsupported, MissingLibrary."""
    shape = tuple(job.model.input_shape)
    if len(shape) != 3 or shape[0] != 3:
        raise Unsupported(
            "the pipeline begins with images, and the model's input is {}".format(list(shape)),
            "Choose models with an input of [3, H, W].",
            "input-shape-unsupported",
        )
    require("numpy")
    require("PIL.Image")


def prepare(ctx: Context, spec: PipelineSpec) -> None:
    """Make the pictures, or look at the folder's: what is wrong with it is told before anything is measured.

    Raises:
        DataUnavailable: as `JpegFiles`.
    """
    if spec.images == GENERATED:
        _made(ctx, spec)
    else:
        JpegFiles(_listed(spec))


def open_files(ctx: Context, spec: PipelineSpec) -> JpegFiles:
    """The study's files, each decoded once.

    Raises:
        DataUnavailable: as `JpegFiles`.
        NotPrepared: the pictures were not made.
    """
    if spec.images != GENERATED:
        return JpegFiles(_listed(spec))
    folder = os.path.join(ctx.control_dir, _FOLDER)
    unpack(_made(ctx, spec).path, folder)
    return JpegFiles([os.path.join(folder, name) for name in _names(spec)])


def decoder() -> str:
    """Which library decodes: `Pillow 10.4.0, libjpeg-turbo 3.0.3`."""
    features = require("PIL.features")
    turbo = features.version("libjpeg_turbo") if features.check_feature("libjpeg_turbo") else None
    jpeg = "libjpeg-turbo {}".format(turbo) if turbo else "libjpeg {}".format(features.version("jpg"))
    return "Pillow {}, {}".format(require("PIL").__version__, jpeg)


def decode(path: str) -> Any:
    """Read and decode one file: an RGB picture of Pillow's.

    Raises:
        DataUnavailable: it cannot be read, or is no whole JPEG file.
    """
    image = require("PIL.Image")
    content = _read(path)
    try:
        opened = image.open(io.BytesIO(content))
        if opened.format != "JPEG":
            raise _unreadable(path, "it is {}, not JPEG".format(opened.format))
        opened.load()
        return opened if opened.mode == "RGB" else opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
        raise _unreadable(path, str(error)) from error


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError as error:
        raise _unreadable(path, str(error)) from error


def _unreadable(path: str, why: str) -> DataUnavailable:
    return DataUnavailable(
        "{} cannot be used as a JPEG file: {}".format(path, why),
        "Replace or remove the file; every file of the folder named *.jpg or *.jpeg is taken.",
        "image-unreadable",
    )


def _listed(spec: PipelineSpec) -> List[str]:
    if not os.path.isdir(spec.images):
        raise DataUnavailable(
            "the image folder {} is not there".format(spec.images),
            "It is read from the worker host's own disk: put it there, or give the path that it has there.",
        )
    found = []
    for directory, _, names in sorted(os.walk(spec.images, followlinks=True)):
        found += [os.path.join(directory, name) for name in sorted(names) if name.lower().endswith(EXTENSIONS)]
    if not found:
        raise DataUnavailable(
            "{} holds no JPEG file (*.jpg, *.jpeg), nor do its folders".format(spec.images),
            "Put JPEG files there, or set `pipeline.images: generated`.",
            "no-jpeg-files",
        )
    return [found[i] for i in spread(len(found), spec.count)]


def _names(spec: PipelineSpec) -> List[str]:
    return ["{:05d}.jpg".format(index) for index in range(spec.count)]


def _made(ctx: Context, spec: PipelineSpec) -> CachedFile:
    key = {
        "recipe": RECIPE,
        "count": spec.count,
        "size": [spec.width, spec.height],
        "quality": spec.quality,
        "seed": ctx.job.seed,
        "versions": versions("PIL", "numpy"),
    }
    return ctx.cached(KIND, key, "images.zip", lambda path: _make(spec, ctx.job.seed, path))


def _make(spec: PipelineSpec, seed: int, path: str) -> Dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        size = 0
        for index, name in enumerate(_names(spec)):
            own = os.path.join(directory, name)
            picture((seed, index), spec.width, spec.height).save(own, "JPEG", quality=spec.quality)
            size += os.path.getsize(own)
        pack(directory, _names(spec), path)
    return {"bytes": size, "bytes_per_pixel": size / (spec.count * spec.width * spec.height)}


def picture(seed: Tuple[int, int], width: int, height: int) -> Any:
    """One picture of Pillow's, in the colour space that JPEG stores."""
    import numpy as np

    image = require("PIL.Image")
    drawn = np.random.default_rng(list(seed))
    slow = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    slow[0, 0] = 1.0

    def plane(slope: float, spread_by: float) -> Any:
        noise = np.fft.rfft2(drawn.standard_normal((height, width))) / slow**slope
        noise[0, 0] = 0.0
        values = np.fft.irfft2(noise, s=(height, width))
        scaled = 128.0 + values * (spread_by / max(float(values.std()), 1e-9))
        return image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))

    chroma = [plane(_CHROMA_SLOPE, _CHROMA_SPREAD) for _ in range(2)]
    return image.merge("YCbCr", [plane(_LUMA_SLOPE, _LUMA_SPREAD), *chroma])
