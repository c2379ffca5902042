# SPDX-License-Identifier: Apache-2.0
"""SavedModels named in a sweep: TensorFlow's directories, made into one archive that is known by its sha256."""

from __future__ import annotations

import tempfile
from pathlib import Path

from farm.contract.archive import files_below, pack
from farm.contract.canonical import sha256_file
from farm.sweep.onnx_file import ModelFile, locate

_GRAPH = "saved_model.pb"
_VARIABLES = "variables/variables.index"
#: Archives are read when the sweep is submitted, and go with this process.
_ARCHIVES: list[tempfile.TemporaryDirectory[str]] = []


def look_at(written: str, directory: Path) -> ModelFile:
    """Find the directory that a sweep names, see that it can be a SavedModel, and pack it.

    The digest is over the bytes and the names of all its files: neither their dates nor where they lie play a part.
    Whether its signature can be measured is found out by the stack that has TensorFlow.

    Raises:
        ValueError: what is wrong with it, in words.
    """
    try:
        path = locate(written, directory)
        if not path.is_dir():
            raise ValueError(f"a SavedModel is a directory, and this is none: {path}")
        names = _checked(path)
        _ARCHIVES.append(tempfile.TemporaryDirectory(prefix="inferfarm-saved-model-"))
        archive = Path(_ARCHIVES[-1].name) / "saved_model.zip"
        pack(str(path), names, str(archive))
        return ModelFile(archive, sha256_file(str(archive)), archive.stat().st_size, "files")
    except OSError as error:
        raise ValueError(f"the directory cannot be read: {error.strerror or error}") from error


def _checked(path: Path) -> list[str]:
    names = files_below(str(path))
    if _GRAPH not in names:
        raise ValueError(f"the directory has no {_GRAPH}, so it is no SavedModel: {path}")
    if (path / _GRAPH).stat().st_size == 0:
        raise ValueError(f"{_GRAPH} is empty")
    if any(name.startswith("variables/") for name in names) and _VARIABLES not in names:
        raise ValueError(f"the directory has variables, and no {_VARIABLES}: it is cut short")
    for name in names:
        if not (path / name).resolve().is_relative_to(path):
            raise ValueError(f"{name} is a link that leads out of the directory")
    return names
