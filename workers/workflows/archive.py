# SPDX-License-Identifier: Apache-2.0
"""A directory that a library keeps its compiled code in, as one file: packed in prepare, unpacked to be measured."""

import contextlib
import os
import shutil
import zipfile
from typing import Iterable, Iterator

from workers.workflows.errors import WorkflowError


def pack(directory: str, names: Iterable[str], path: str) -> None:
    """Write the files `names` of a directory to one archive, with a fixed date: the same code gives the same file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(names):
            with open(os.path.join(directory, name), "rb") as source:
                with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target)


def unpack(path: str, directory: str) -> None:
    """Put an archive's files into `directory`.

    Raises:
        WorkflowError: it is no archive, or a part of it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(directory)
    except zipfile.BadZipFile as error:
        raise WorkflowError("{} is damaged: {}".format(path, error), None, "cache-unusable") from error


@contextlib.contextmanager
def working_in(directory: str) -> Iterator[None]:
    """Make a directory the current one, for libraries that leave files where the process is."""
    before = os.getcwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)
