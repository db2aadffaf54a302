"""Lists of user ids that a person hands over, one id per line, as editors and spreadsheets save them.

Enters: a file, or ids of a command line. Leaves: ids as they are written, and on the terminal those that no row names. Nothing is guessed
of an id but what editors and spreadsheets put around it: 'U1' and '0007' are other ids than 'u1' and '7'.
"""

from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..canonical import WHITE
from ..errors import ConfigError, LeftoverError

STRICT_EXIT = 3  # exit code where --strict asks for it and an id names no row
# UTF-32 first: its mark begins with that of UTF-16.
MARKS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


def read_ids(file: Path) -> list[str]:
    """The lines of a UTF-8 file, with or without byte order mark, that are not blank; they end in LF, CRLF or CR.

    Raises ConfigError where the file cannot be read, is no UTF-8 text or holds no id.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the list of users {file} cannot be read ({error.strerror}): give a text file with one user id per line"
        ) from None
    found = next((name for mark, name in MARKS.items() if content.startswith(mark)), "")
    if not found and b"\0" in content:
        found = "not a text (it holds bytes of 0)"
    try:
        text = "" if found else content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"not UTF-8 (line {content[: error.start].count(10) + 1} holds the byte {content[error.start]:#04x})"
    if found:
        raise ConfigError(f"the list of users {file} is {found}; allowed: UTF-8, one user id per line. Save it as UTF-8, and run again")
    ids = [line for line in re.split(r"\r\n|\r|\n", text) if line.strip(WHITE)]
    if not ids:
        raise ConfigError(f"the list of users {file} holds no user id: give a text file with one per line")
    return ids


def asked(users: Iterable[str], file: str, nobody: bool) -> list[str]:
    """The ids of a command line (--user, --users FILE); empty where it asks to forget nobody (--vacuum).

    Raises ConfigError where it does both or neither, and as `read_ids` and `require_ids` do.
    """
    users = list(users)
    if nobody:
        if users or file:
            raise ConfigError("--vacuum forgets nobody: give it without --user and --users")
        return []
    ids = [*users, *(read_ids(Path(file)) if file else [])]
    require_ids(ids)
    return ids


def require_ids(users: Iterable[str]) -> None:
    """Raises ConfigError where there is no id, or one is blank or not UTF-8."""
    users = list(users)
    if not users:
        raise ConfigError("nobody to forget: give --user ID or --users FILE")
    for user in users:
        if not user.strip(WHITE):
            raise ConfigError(f"a user id is {user!r}; allowed: one that is not blank")
        if any("\ud800" <= letter <= "\udfff" for letter in user):
            raise ConfigError(f"the user id {user!r} is not UTF-8: give the bytes that the log holds")


def forms(written: str) -> tuple[str, ...]:
    """What the id may be in the log: as it is written; if the log has no such id, without the blanks around it."""
    return tuple(dict.fromkeys((written, written.strip(WHITE))))


@contextmanager
def unmatched_named(users: Collection[str], strict: bool) -> Iterator[list[str]]:
    """A list, to which what runs in here adds the ids among users that name no row of any table; afterwards they are named on stderr.

    Ends the process with STRICT_EXIT where strict asks for it. After a LeftoverError they are named, too, and it is raised: the tables are
    published, and the next run finds none of the ids.
    """
    unmatched: list[str] = []
    leftover: LeftoverError | None = None
    try:
        yield unmatched
    except LeftoverError as error:
        leftover = error
    if unmatched:
        named = ", ".join(map(repr, unmatched))  # all of them: a second run cannot tell them from those that were erased
        print(
            f"{'error' if strict else 'warning'}: {len(unmatched):,} of {len(set(users)):,} ids matched no row of any table: "
            f"{named}. An id must be as the log writes it, but for blanks around it; what the others name is erased",
            file=sys.stderr,
        )
        if strict and leftover is None:
            sys.exit(STRICT_EXIT)
    if leftover is not None:
        raise leftover
