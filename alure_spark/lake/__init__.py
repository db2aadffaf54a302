"""Delta tables at fixed versions, who writes them, hashes of their content, and the folders that jobs use meanwhile.

`publishing` and `job_run` are what jobs work with; they stand on `store` (the tables themselves) and `turns` (who may
write).
"""

from .columns import UNITS, as_of_scope, in_units, latest_rows, timestamp
from .content import content_hash, hash_and_count, row_hash
from .job_run import JobRun
from .publishing import Lake
from .scratch import make_private, resumable_folder, scratch_folder, workspace
from .store import VERSION_PROPERTY
from .turns import OLD_FILES, REMOVED_AT

__all__ = [
    "OLD_FILES", "REMOVED_AT", "UNITS", "VERSION_PROPERTY", "JobRun", "Lake", "as_of_scope", "content_hash", "hash_and_count", "in_units",
    "latest_rows", "make_private", "resumable_folder", "row_hash", "scratch_folder", "timestamp", "workspace",
]  # fmt: skip
