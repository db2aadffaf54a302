"""The time encodings of tokens, in the order of their numbers (CFEE; ALURE, section 2.2). A new one is a file here and a line in ENCODINGS.

Tokens hold causal facts only (house rule 5): no absolute place, which would differ between a long training row and the serving row.
"""

from __future__ import annotations

from ..spec import ModelSpec
from .clock import CLOCK
from .encoding import Encoding
from .frequency import FREQUENCY
from .gap import GAP

ENCODINGS = (GAP, CLOCK, FREQUENCY)


def encodings_of(spec: ModelSpec, source: str) -> list[Encoding]:
    """Those that a token of the source has."""
    there = spec.token_lookback(source) > 0
    return [one for one in ENCODINGS if getattr(spec.config, one.setting) and (there or not one.looks_back)]


def encoding_width(spec: ModelSpec, source: str) -> int:
    """Numbers of the time encodings of a token of the source."""
    return sum(one.width for one in encodings_of(spec, source))
