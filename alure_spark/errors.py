"""What can go wrong, by who has to act.

Every error says what was wrong, the value, what is allowed and what to do next. Callers catch `AlureError`;
a job that catches one ends with exit code 2 and the sentence, not a stack trace.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from datetime import date


class AlureError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(AlureError):
    """A value or key of the configuration is wrong: the person who wrote the conf acts. What is longer than a name ever is, is cut."""

    def __init__(self, sentence: str) -> None:
        super().__init__(re.sub(r"(\S{300})\S+", r"\1...", sentence))


class DataError(AlureError):
    """A table or frame does not hold what its contract says: the owner of the data acts."""


class LakeError(AlureError):
    """A table cannot be read or published: missing, empty for the scope, or of another schema version."""


class LeftoverError(LakeError):
    """The tables are published, but not all that was to be erased is: run the job again once the cause is removed."""


class SessionError(AlureError):
    """Spark cannot be started here (no Java, a wrong Java) or lacks what the jobs need (Delta)."""


class TrainingError(AlureError):
    """Training cannot go on (a loss that is not finite): nothing is saved, the champion stays."""


class TrackingError(AlureError):
    """MLflow does not hold the model that is asked for, or cannot take one."""


class QualityError(AlureError):
    """A result is worse than the floor in conf, so it is not published."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as "; did you mean 'as_of'?" for a misspelt name, or the allowed names when none is near."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(names) or 'none'}"


def shown(value: object, most: int = 100) -> str:
    """The value as an error message shows it, cut to a sane length."""
    try:
        text = value.isoformat() if isinstance(value, date) else repr(value)
    except ValueError:  # a number of more digits than Python prints
        text = f"a number of {value.bit_length():,} bits" if isinstance(value, int) else f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"
