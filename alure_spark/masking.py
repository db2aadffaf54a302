"""What is not written down where others read it: secrets of the conf. In MLflow, in sentences and on the terminal they are '***'.

A secret may stand in the conf as a reference, `secret:NAME`, to an environment variable: it is looked up when it is used, and the
reference is all that is stored, printed or hashed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from .errors import ConfigError

REFERENCE = "secret:"
MASK = "***"
# Of keys in conf, of query parameters and of connection strings; words are split at '.', '_', '-' and at capital letters.
SECRET = re.compile(
    r"password|passwd|passphrase|passcode|pass(?![a-z])|pwd|secret|token|credential|signature|connection_?string|jaas|bearer"
    r"|(?<![a-z])(pw|creds?|sas|sig|auth|authorization)(?![a-z])|keys?(?![a-z])|accesskey|accountkey|apikey"
)
USER = re.compile(r"(^|[._-])(user|username|user_name|login|uid)$")
SECTIONS = ("spark", "tracking", "source.options")  # where a value may be somebody's secret
SHORTEST = 4  # a shorter secret is not looked for in texts: it would hit words
_NAME = re.compile(r"""(?<![\w.\-])([\w.\-]+)(\\*['"]?\s*(?:=>|[=:])\s*)""")
# Quoted by escaped quotes (JSON within a text), quoted with its escapes, quoted where no escape is meant ('C:\'), or bare.
_VALUE = re.compile(
    r"""\{[^}\n"':]*\}|\\+'[^'\\\n]*\\+'|\\+"[^"\\\n]*\\+"|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|"[^"\n]*"|[^\s&;,'"\])}]+"""
)
_LOGIN = re.compile(r"""(?<!abfs)(?<!abfss)(?<!wasb)(?<!wasbs)://[^\s'"<>/?#]*@|://[^\s'"<>:]{0,200}:[^\s'"<>]{0,500}@""")
_BARE = re.compile(
    r"(?<=Bearer )\S+|(?<=Basic )[\w+/=-]{4,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\beyJ[\w-]+\.[\w-]+\.[\w-]*|(?<=thin:)[^\s@]+(?=@)|\bdapi[0-9a-f]{32}\S*"
)
_PUBLIC = re.compile(
    r"(?i)(true|false|none|[\d.]+|oauth|sas|sharedkey|secret:.*)$|(org|com|io|net|software|shaded)\."
)  # what such a key holds besides
_seen: set[str] = set()  # secrets of this process: an error may quote one anywhere


def resolve(value: str, where: str) -> str:
    """The value, or what the environment variable holds that it refers to. Raises ConfigError when there is none."""
    if not value.startswith(REFERENCE):
        return value
    name = value.removeprefix(REFERENCE).strip()
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ConfigError(f"{where} is a reference to no environment variable; allowed: {REFERENCE}NAME, letters, digits and '_'")
    if not os.environ.get(name):
        raise ConfigError(f"{where} is {value!r}, but the environment variable {name} is not set: export it before the job starts")
    _note(os.environ[name])
    return os.environ[name]


def resolved(values: Any, where: str) -> Any:
    """The same for every text in nested mappings and lists."""
    if isinstance(values, Mapping):
        return {key: resolved(value, f"{where}.{key}") for key, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(resolved(value, f"{where}[{index}]") for index, value in enumerate(values))
    return resolve(values, where) if isinstance(values, str) else values


def is_secret(key: str) -> bool:
    """Whether the name of a setting, an option or a parameter says that its value is a secret."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower()
    return bool(SECRET.search(words))


def remember(values: Any, key: str = "") -> None:
    """Take note of the secrets that stand in these values of a conf in clear, so that no text shows them."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            remember(value, key if key and is_secret(key) else str(name))
    elif isinstance(values, list | tuple):
        for value in values:
            remember(value, key)
    elif isinstance(values, str) and not values.startswith(REFERENCE):
        if is_secret(key) and not _PUBLIC.match(values):
            _note(values)
        _note_parts(values)


def _note(secret: str) -> None:
    _seen.add(secret)
    _note_parts(secret)


def _note_parts(text: str) -> None:
    """The passwords of URLs and connection strings, which an error may quote without the rest."""
    _seen.update(found[1] for found in re.finditer(r"://[^\s/:@]*:([^\s@]+)@", text))
    _seen.update(text[start:end].strip("'\"") for start, end in _secret_values(text) if not _PUBLIC.match(text[start:end]))


def masked(value: Any, key: str = "") -> Any:
    """The value of a conf's key as it may be shown: what a secret is called, or holds a login or a secret parameter, is masked."""
    login = isinstance(value, str) and USER.search(key.lower())  # events_per_user: 80 is none
    hidden = is_secret(key) or login
    if isinstance(value, Mapping):
        return {name: masked(item, key if hidden else str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item, key) for item in value]
    if isinstance(value, str) and value.startswith(REFERENCE):
        return value
    if hidden and value not in ("", None) and not isinstance(value, bool):
        return MASK
    return masked_text(value) if isinstance(value, str) else value


def masked_at(value: Any, path: str) -> Any:
    """The value as a sentence may quote it: masked where it stands in a section that holds secrets."""
    return masked(value, path) if path.startswith(SECTIONS) else value


def presentable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A conf, as plain values, as it may be shown: secrets are masked in the sections that name places."""
    return {key: masked(value) if key in ("lake", "source", "spark", "tracking") else value for key, value in config.items()}


def public(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same as MLflow may keep it: without `spark`, `tracking` and ids of users, which an erasure would not find there."""
    kept = {key: value for key, value in presentable(config).items() if key not in ("spark", "tracking")}
    if users := kept.get("graph", {}).get("excluded_users"):
        kept["graph"] = {**kept["graph"], "excluded_users": f"{len(users)} users"}
    return kept


def masked_text(text: str) -> str:
    """The text without known secrets, logins in URLs, secret parameters of URLs and connection strings, and tokens.

    A secret is found as it is and as URLs, JSON and Python's repr write it.
    """
    for secret in sorted(_seen, key=len, reverse=True):
        if len(secret) >= SHORTEST:
            for form in _forms(secret):
                text = text.replace(form, MASK)
    text = _LOGIN.sub(f"://{MASK}@", text)
    text = _BARE.sub(MASK, text)
    parts, done = [], 0
    for start, end in _secret_values(text):
        parts += [text[done:start], MASK]
        done = end
    return "".join([*parts, text[done:]])


def _forms(secret: str) -> list[str]:
    """How texts spell a secret, the longest first: raw, URL-quoted, escaped by JSON (ASCII or not) and by repr (either quote)."""
    escaped = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    escaped |= {write(secret)[1:-1] for write in (repr, ascii)}
    # A text with both quotes in it, of which the secret is a part, has its single quotes escaped.
    escaped |= {write(f"{secret}'\"")[1:-4] for write in (repr, ascii)}
    quoted = {quote(secret, errors="replace"), quote(secret, safe="", errors="replace"), quote_plus(secret, errors="replace")}
    return sorted({secret} | escaped | quoted, key=len, reverse=True)


def _secret_values(text: str) -> Iterator[tuple[int, int]]:
    """Where the values stand of `name=value` and `name: value`, in queries, connection strings and JSON, whose name is that of a secret."""
    done = 0
    for found in _NAME.finditer(text):
        # People write 'no key: do this', but not 'key=this'.
        secret = is_secret(found[1]) and ("=" in found[2] or found[1].lower() != "key")
        value = _VALUE.match(text, found.end()) if secret and found.start() >= done else None
        if value and not value[0].strip("'\"\\").startswith(REFERENCE):
            yield value.span()
            done = value.end()
