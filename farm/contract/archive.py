# SPDX-License-Identifier: Apache-2.0
"""Several files as one, so that the same files always give the same bytes."""

import os
import shutil
import zipfile
from typing import Iterable, List


def files_below(directory: str) -> List[str]:
    """The files of a directory and of those in it, as paths relative to it, sorted."""
    found = []
    for folder, _, names in os.walk(directory):
        found += [os.path.relpath(os.path.join(folder, name), directory) for name in names]
    return sorted(found)


def pack(directory: str, names: Iterable[str], path: str) -> None:
    """Write the files `names` of a directory to one archive, with a fixed date: the same code gives the same file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(names):
            with open(os.path.join(directory, name), "rb") as source:
                with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target)
