"""Tables whose files were lost or cut short under the lake: a sentence that names the table and the way to repair it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

from ..errors import AlureError, LakeError
from ..tables import TABLES, table

# What Delta says of a log that lacks a commit, or of which one cannot be read; older classes first.
LOG = re.compile(
    r"Cannot time travel Delta table|DELTA_VERSIONS_NOT_CONTIGUOUS|DELTA_LOG_FILE_NOT_FOUND|DELTA_STATE_RECOVER_ERROR|DELTA_TRUNCATED"
    r"|DELTA_VERSION_NOT_FOUND|DELTA_CANNOT_RESTORE_TABLE_VERSION|DELTA_MISSING_PART_FILES|DELTA_CHECKPOINT_NON_EXIST"
    r"|fasterxml\.jackson|FAILED_READ_FILE[^\n]*_delta_log"
)
# What they say of a file of rows that is not there, or not whole.
ROWS = re.compile(r"FAILED_READ_FILE|DELTA_FILE_NOT_FOUND|FileNotFoundException|Not all files from version")


class Damage:
    """The errors of tables under one root."""

    root: str
    is_folder: bool

    def damaged(self, name: str, what: str) -> LakeError:
        """The error of a table whose log lacks what `runs` says is there; what: a clause that says so."""
        log = f"{self.root}/{name}/_delta_log" if self.is_folder else f"the _delta_log of {self.root}.{name}"
        return LakeError(
            f"table '{name}' in lake {self.root} {what}: commits were lost or deleted, and nothing was changed. Put the missing files back "
            f"into {log} from a backup, or give an empty lake.root and run the jobs anew, from jobs/{table(name).producer}.py on"
        )

    def lost_file(self, error: BaseException) -> LakeError | None:
        """The error of a table whose files are gone or damaged; None where this one names no file of a table of the lake."""
        text = unquote(str(error))
        below = re.escape(self.root) if self.is_folder else ""
        lost = re.search(rf"{below}/({'|'.join(TABLES)})/[^\n'\"]*?([^/]*\.(?:parquet|json))", text)
        if lost is None or not ROWS.search(text):
            return None
        if "_delta_log" in lost[0]:
            return self.damaged(lost[1], f"cannot be read ({lost[2]})")
        return self._lost(lost[1], lost[2])

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """What is said of a table's log or files that are not whole becomes a LakeError."""
        try:
            yield
        except Exception as error:
            if isinstance(error, AlureError):
                raise
            if LOG.search(str(error)):
                raise self.damaged(name, f"cannot be read ({sentence(error)})") from error
            if ROWS.search(str(error)):
                raise self._lost(name) from error
            raise

    def _lost(self, name: str, file: str = "") -> LakeError:
        return LakeError(
            f"table '{name}' in lake {self.root} lacks a file of its published rows{file and f' ({file})'}, or it is damaged: somebody "
            "deleted it, perhaps by VACUUM after a job had been killed; nothing was changed. Put its files back from a backup, or give an "
            f"empty lake.root and run the jobs anew, from jobs/{table(name).producer}.py on"
        )


def sentence(error: BaseException) -> str:
    """The one line of a Spark error that says what happened, without the stack of the JVM."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for line in lines:
        if match := re.search(r"\[[A-Z][A-Z_.]+\] [^\n]*", line):
            return match[0][:300]
    for line in lines:
        if match := re.search(r"(?:Exception|Error): (.+)", line):
            return match[1][:300]
    return (lines or [type(error).__name__])[0][:300]
