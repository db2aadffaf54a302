"""What a job prints, without the secrets of the conf, and with which exit code it ends."""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
from collections.abc import Callable

from ..errors import AlureError
from ..masking import masked_text


def say(text: str) -> None:
    """Print the text without the secrets of the conf."""
    print(masked_text(text), flush=True)


class _Masking(logging.Formatter):
    """Without the secrets that other people's libraries log, such as the query of a URL."""

    def format(self, record: logging.LogRecord) -> str:
        return masked_text(super().format(record))


def guarded(action: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> None:
    """Do it; an AlureError ends the process with exit code 2 and its sentence. Nothing that is printed shows a secret of the conf."""
    said = logging.StreamHandler()
    said.setFormatter(_Masking("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[said])
    try:
        action(options)
    except AlureError as error:
        print(f"error: {masked_text(str(error))}", file=sys.stderr)
        sys.exit(2)
    except Exception:
        print(masked_text(traceback.format_exc()), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:  # Python would print what was being handled as it is
        print(masked_text(traceback.format_exc()), file=sys.stderr)
        sys.exit(130)
