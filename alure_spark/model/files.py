"""What is wrong with a model's files, as one sentence: whatever a library says of a damaged file becomes a DataError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

from ..errors import ConfigError, DataError

# Of JSON, of safetensors, of a spec that does not fit its dataclass, and of weights that do not fit their spec.
WRONG = (SafetensorError, ConfigError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, OSError)


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Around the reading of a file: raises DataError, which names `what` (a subject, such as "the model in ./m"), where it fails."""
    try:
        yield
    except WRONG as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(
            f"{what} cannot be read ({type(error).__name__}: {reason}): if it was changed or damaged, take it from MLflow again, "
            "or train anew"
        ) from error
