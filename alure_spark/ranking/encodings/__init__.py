"""How the value of a field becomes rows of embedding tables. A new encoding is a file here and a line in ENCODINGS."""

from __future__ import annotations

from .encoding import Encoding
from .hash_id import HashId
from .ids import Ids
from .numeral_systems import NumeralSystems
from .words import Words

ENCODINGS: dict[str, type[Encoding]] = {"id": Ids, "numeral_systems": NumeralSystems, "hash_id": HashId, "words": Words}

__all__ = ["ENCODINGS", "Encoding", "HashId", "Ids", "NumeralSystems", "Words"]
