"""Delta tables at fixed versions, who writes them, hashes of their content, and the folders that jobs use meanwhile.

`publishing` is what jobs work with; it stands on `store` (the tables themselves) and `writers` (whose turn it is).
"""

from .columns import UNITS, as_of_scope, in_units, latest_rows, timestamp
from .content import content_hash, hash_and_count, row_hash
from .publishing import JobRun, Lake
from .scratch import resumable_folder, scratch_folder
from .store import VERSION_PROPERTY

__all__ = [
    "UNITS", "VERSION_PROPERTY", "JobRun", "Lake", "as_of_scope", "content_hash", "hash_and_count", "in_units", "latest_rows",
    "resumable_folder", "row_hash", "scratch_folder", "timestamp",
]  # fmt: skip
