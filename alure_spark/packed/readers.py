"""Which reader training.reader names: a further one is a subclass of `Reader` in a file of its own, and a line here."""

from __future__ import annotations

from ..errors import ConfigError, nearest
from .petastorm_reader import PetastormReader, require_petastorm
from .pyarrow_reader import ArrowReader
from .row_groups import Reader

READERS: dict[str, type[Reader]] = {"petastorm": PetastormReader, "pyarrow": ArrowReader}


def open_reader(kind: str, folder: str) -> Reader:
    """A reader of training.reader's kind. Raises ConfigError on another kind or without petastorm, DataError on a folder without rows."""
    if kind not in READERS:
        raise ConfigError(f"training.reader is {kind!r}{nearest(kind, READERS)}")
    if kind == "petastorm":
        require_petastorm()
    return READERS[kind](folder)
