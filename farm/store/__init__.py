# SPDX-License-Identifier: Apache-2.0
"""Where results live: sweeps, records, blobs and an index. `Store` is the way in."""

from farm.store.blobs import BlobInfo, BlobProblem, BlobStore
from farm.store.index import Index
from farm.store.query import Table
from farm.store.records import BadRecord, RecordStore
from farm.store.store import ArtifactRow, Store
from farm.store.sweeps import SweepStore
from farm.store.verify import Problem

__all__ = [
    "ArtifactRow",
    "BadRecord",
    "BlobInfo",
    "BlobProblem",
    "BlobStore",
    "Index",
    "Problem",
    "RecordStore",
    "Store",
    "SweepStore",
    "Table",
]
