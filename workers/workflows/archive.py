# SPDX-License-Identifier: Apache-2.0
"""A directory that a library keeps its compiled code in, packed in prepare: here it is unpacked to be measured."""

import contextlib
import os
import zipfile
from typing import Iterator

from workers.workflows.errors import WorkflowError


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
