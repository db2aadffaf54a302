"""What a downstream model may read of a user model that is trained anew, by name: for benchmarks/transfer_drift.py and for its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

NONE, RAW, WARM = "no representations", "new version", "new version that goes on from the old"
TURNED, LINEAR = "new version, rotated", "new version, by a matrix"
KEPT, HELD = "old version, its last rows", "old version, run every day"
FROZEN = (NONE, RAW, WARM, TURNED, LINEAR, KEPT, HELD)
ANEW = "; downstream anew"
ROADS = (*FROZEN, f"{LINEAR}{ANEW}")
ALL = ("user", "item", "cross")
KINDS: Mapping[str, Sequence[str]] = {"UR, IR and CR": ALL, "UR alone": ALL[:1], "IR alone": ALL[1:2], "CR alone": ALL[2:]}
