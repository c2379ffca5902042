# SPDX-License-Identifier: Apache-2.0
"""ONNX files named in a sweep: where they may lie, that they are whole, and their sha256."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from farm.contract.canonical import sha256_file

#: Protocol buffers, and so ONNX files with their weights inside, end here.
MAX_BYTES = (1 << 31) - 1


@dataclass(frozen=True)
class ModelFile:
    """A file that was looked at. `checked` says how: `onnx.checker`, or `first byte` where `onnx` is not installed;
    `files` of a SavedModel, whose `path` is an archive that lasts as long as this process."""

    path: Path
    sha256: str
    size_bytes: int
    checked: str


def look_at(written: str, directory: Path) -> ModelFile:
    """Find the file that a sweep names and see that it can be what it says.

    A relative path is taken from the sweep's directory and may not leave it, by `..` or by a link.

    Raises:
        ValueError: what is wrong with it, in words.
    """
    try:
        path = locate(written, directory)
        if not path.is_file():
            raise ValueError(f"not a regular file: {path}")
        size = path.stat().st_size
        if size == 0:
            raise ValueError("the file is empty")
        if size > MAX_BYTES:
            raise ValueError(f"the file has {size} bytes; an ONNX file has at most {MAX_BYTES}")
        checked = _check(path)
        return ModelFile(path, sha256_file(str(path)), size, checked)
    except OSError as error:
        raise ValueError(f"the file cannot be read: {error.strerror or error}") from error


def locate(written: str, directory: Path) -> Path:
    """What a sweep in `directory` means by a path. Raises ValueError: it is not there, or may not be named so."""
    if "\0" in written:
        raise ValueError("a path cannot hold a NUL character")
    path = Path(written)
    if ".." in path.parts:
        raise ValueError("the path may not climb out with `..`; give an absolute path instead")
    full = path if path.is_absolute() else directory / path
    if not full.exists():
        raise ValueError(f"no such file: {full}")
    resolved = full.resolve()
    if not path.is_absolute() and not resolved.is_relative_to(directory.resolve()):
        raise ValueError(f"the path leads out of the sweep's directory, to {resolved}; give an absolute path instead")
    return resolved


def _check(path: Path) -> str:
    """Refuse what is no ONNX file. Without the `onnx` package only the first byte is looked at."""
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError:
        return _first_byte(path)
    try:
        model = onnx.load(str(path), load_external_data=False)
        outside = [t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
        if outside:
            message = (
                f"the file keeps weights in other files ({outside[0]!r}, {len(outside)} in all); save it as one file"
            )
            raise ValueError(message)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError) as error:
        told = " ".join(str(error).split())[:200]
        raise ValueError(f"not a whole ONNX model, damaged or cut short: {told}") from error
    return "onnx.checker"


def _first_byte(path: Path) -> str:
    # Field 1, the IR version, is a number, and writers put it first.
    with path.open("rb") as stream:
        if stream.read(1) != b"\x08":
            raise ValueError("not an ONNX model: it does not begin like one")
    return "first byte"
