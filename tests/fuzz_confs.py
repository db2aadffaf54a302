"""Odd confs, by the thousand: python -m tests.fuzz_confs --confs 10000 [--seed 7] prints what became of them.

Every conf of conf/ is changed at every path, by odd values and odd YAML, as a file and by --set. Each ends as a valid Config (which can be
shown, hashed and read back, and with whose times jobs can count) or as one sentence: ConfigError. Everything else is a TRACE.
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import json
import math
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from alure_spark.clock import DAY_MS, HOUR_MS, format_time
from alure_spark.config import Config, as_dict, build, load
from alure_spark.errors import ConfigError
from alure_spark.sources import completejourney, mapping
from alure_spark.sources.synthetic.options import WorldOptions
from jobs.config import text

ROOT = Path(__file__).parent.parent
CONFS = sorted((ROOT / "conf").glob("*.yml"))
OPTIONS: dict[str, type] = {"completejourney": completejourney.Options, "synthetic": WorldOptions, "tables": mapping.Options}
MARK = "@@here@@"
LONGEST_SENTENCE = 1500

LAUGHS = "{a: &a [x, x, x, x, x, x, x, x, x]" + "".join(
    f", {name}: &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
) + "}"  # fmt: skip
MERGES = "{a: &a {x: 1}" + "".join(
    f", {name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
) + "}"  # fmt: skip
SCALARS = [
    "NO", "yes", "Off", "y", "true", "~", "null", "", "''", "0", "-0", "-1", "1", "3.0", "-0.0", "0.5", "1e-3", "1.0e-3", "1e400",
    "1.0e+400", ".inf", "-.inf", ".nan", "5.0e-324", "1.7e+308", "2147483647", "2147483648", "-2147483649", "9223372036854775807",
    "9223372036854775808", "1" + "0" * 400, "9" * 5000, "0x" + "f" * 5000, "0b_", "0x_", "010", "1_000", "1:30", "190:20:30.15",
    "2025-01-01", "2025-02-30", "2025-13-45", "0001-01-01", "9999-12-31", "0001-01-01T00:00:00+14:00", "'9999-12-31T23:59:59-14:00'",
    "2016-12-31T23:59:60Z", "2025-01-01 00:00:00 +14:00", "'2025-W01-1'", "1e9", "=", "<<", '"\\0"', '"\\ud800"', '"\\x01"', '"a\\nb"',
    "'" + "x" * 100_000 + "'", "'%41'", "'#'", "' '", "'[x]'", "'../..'", "/", "'`'", '"\'"', "'😀'", "'größe'", "'a b'", "'a.b'",
    "'a,b'", "Dwell_ms", "USER_ID", "_n", "all", "ALL", "ad_click", "alure", "categorical", "sqlite:///x?y", "s3a://a/b", "a.b", "a:b",
    "@x", "`x`", "%x", "*x", "&x", "!x y", "- x", "? x", "| x", "> x", "# x", "--- x", "...", "\t", "\tx", "a: b: c", "{", "]", "'open",
    '"\\q"', "a\nb: c", "\u2028", "\ufeff", "\x07",
]  # fmt: skip
COLLECTIONS = [
    "[]", "{}", "[[]]", "[1, a]", "[NO]", "[null]", "{a: 1}", "{NO: 1}", "{1: 2}", "{null: 1}", "{'': 1}", "{a: 1, a: 2}",
    "{2025-01-01: 1}", "{1:30: 1}", "{[a]: 1}", "{{a: b}: c}", "{? [a] : b}", "{=: 1}", "{<<: 1}", "{<<: [{a: 1}, 2]}",
    "{<<: {a: b}, a: c}", "{purchase: {}}", "{x: {attributes: {Dwell_ms: numeric}}}", "{all: {}}", "&a [*a]", "&a {b: *a}",
    "{<<: &a {<<: *a}}", "{a: &b [1], c: *b}", LAUGHS, MERGES, "[" * 40 + "]" * 40, "[" * 5000 + "]" * 5000,
    "{a: " * 3000 + "1" + "}" * 3000, "[" + "1, " * 50_000 + "]", "{'" + "k" * 100_000 + "': 1}",
    "!!python/object/apply:os.system [ls]", "!!python/name:os.system ''", "!!binary aGk=", "!!set {a}", "!!omap [a: 1]",
    "!!pairs [a: 1]", "!foo x", "!!int abc", "!!int ''", "!!float x", "!!bool maybe", "!!timestamp foo", "!!null x", "!!str 1",
    "!!map []", "!!seq {}", "[.inf]", "{a: .nan}", "{a: {b: 2025-01-01}}", "[2147483648]", "[7, 7]", "['a', 'a']",
]  # fmt: skip
NUMBERS = [
    "0", "-1", "1", "2", "3", "-0.0", "0.1", "0.5", "1.5", "1.0e-300", "5.0e-324", "1.7e+308", ".inf", "-.inf", ".nan", "1.0e+15",
    "1000", "65537", "1000000", "1000000000", "2147483647", "2147483648", "4294967296", "9223372036854775807", "9223372036854775808",
    "365000", "12000000", "1" + "0" * 400,
]  # fmt: skip
TEXTS = [
    "''", "' '", "a", "a.b", "'a b'", "'größe'", "'#'", "'%41'", "'x?'", "'[x]'", "'`'", "'``'", '"\\"', '"\""', "'it''s'", "'../..'",
    "'/'", "'~'", '"\0"', '"a\nb"', '"\ud800"', "'" + "x" * 300 + "'", "'" + "x/" * 3000 + "'", "'😀'", "'2025-01-01'",
    "'0001-01-01T00:00:00+14:00'", "'NO'", "'9999-12-31T23:59:59-14:00'", "'1399-12-31'", "'1400-01-01'", "'8000-01-01'",
    "'8000-01-02'", "'2016-12-31T23:59:60Z'", "'sqlite:///a?b/c'", "'file:/a b'", "'10:30'", "'a:b/c'", "4g", "0g", "'sc://x'",
    "purchase", "ad_click", "USER_ID", "numeric", "embedding",
]  # fmt: skip
KEYS = [
    "NO",
    "yes",
    "null",
    "1",
    "1.5",
    "''",
    "' '",
    "2025-01-01",
    "1:30",
    "'a.b'",
    "'größe'",
    "'`'",
    "'\\'",
    "[a]",
    "<<",
    "=",
    "k" * 3000,
    "!x y",
]
OVERRIDES = [
    "", "=", "==", "a", "a.b", ".a=1", "a.=1", "a..b=1", " =1", "graph=1", "graph=", "graph=null", "graph.k2.x=1",
    "streams.x.attributes=null", "streams.x=null", "streams=null", "name=", "name=#1", "lake.root=/a b #2/c", "\0=1", "graph.k2=3=4",
    "graph . k2=3", "source.options.events.0=1", "ingest.utc_offset_minutes.NO=60", "ingest.utc_offset_minutes.1=60", "time.as_of=",
    "time.as_of=~", "\udcff=1", "name=\udcff",
]  # fmt: skip


STRAY = [b"\0", b"\t", b"\xef\xbb\xbf", b"\xff", b"\xe4", b"\n---\n", b"\r", b"\n", b":", b"#", b"{"]


def paths_of(values: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where each value is, as keys and places."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(values, dict):
        inner = list(values.items())
    elif isinstance(values, list):
        inner = list(enumerate(values))
    return [above, *(path for key, value in inner for path in paths_of(value, (*above, key)))] if above or inner else [above]


def typed(values: Any) -> list[tuple[tuple[Any, ...], list[str]]]:
    """Each number and text of a conf: where it is, and odd ones."""
    found = []
    for path in paths_of(values):
        value = functools.reduce(lambda place, key: place[key], path, values)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            found.append((path, TEXTS if isinstance(value, str) else NUMBERS))
    return found


def put(values: Any, path: tuple[Any, ...], value: Any, as_key: bool = False) -> Any:
    """A copy with the value there, or the key's value under the value as a further key."""
    changed = copy.deepcopy(values)
    if not path:
        return value
    place = changed
    for key in path[:-1]:
        place = place[key]
    if as_key and isinstance(place, dict):
        place[value] = place.pop(path[-1]) if path[-1] in place else None
    else:
        place[path[-1]] = value
    return changed


def flow(values: Any) -> str:
    """In one line, as YAML: to which 5e-05 would be a text."""
    return json.dumps(values).replace("5e-05", "5.0e-05")


def draw(random_: random.Random, seeds: list[Any]) -> tuple[bytes, list[str]]:
    """The bytes of a conf file and its overrides."""
    values = random_.choice(seeds)
    path = random_.choice(paths_of(values))
    odd = random_.choice(SCALARS if random_.random() < 0.6 else COLLECTIONS)
    way = random_.random()
    if random_.random() < 0.5:  # of the right kind, so that its size or its letters are what is odd
        path, odds = random_.choice(typed(values))
        odd = random_.choice(odds)
    if way < 0.45:
        return flow(put(values, path, MARK)).replace(f'"{MARK}"', odd).encode("utf-8", "surrogatepass"), []
    if way < 0.55:
        return flow(put(values, path, MARK, as_key=True)).replace(f'"{MARK}"', random_.choice(KEYS)).encode(), []
    whole = flow(values)
    if way < 0.85:
        dotted = ".".join(map(str, itertools.takewhile(lambda key: isinstance(key, str), path)))  # a list is set as a whole
        more = [f"{dotted}={odd}"] if random_.random() < 0.9 else [f"{dotted}.{random_.choice(KEYS)}={odd}"]
        return whole.encode(), [*more, *([random_.choice(OVERRIDES)] if random_.random() < 0.2 else [])]
    if way < 0.9:
        return whole.encode(), [random_.choice(OVERRIDES)]
    content = random_.choice(CONFS).read_bytes()
    return damaged(random_, content), []


def damaged(random_: random.Random, content: bytes) -> bytes:
    """The file as editors, copies and wires leave it."""
    at = random_.randrange(len(content))
    lines = content.split(b"\n")
    line = random_.randrange(len(lines))
    return random_.choice([
        lambda: content[:at],
        lambda: content[:at] + bytes([random_.randrange(256)]) + content[at + 1 :],
        lambda: content[:at] + random_.choice(STRAY) + content[at:],
        lambda: content.decode().encode("utf-16"),
        lambda: content.decode().encode("utf-16-le"),
        lambda: content.decode().encode("utf-32"),
        lambda: b"\xef\xbb\xbf" + content,
        lambda: content.replace(b"\n", b"\r\n"),
        lambda: content + content,
        lambda: b"\n".join([*lines[:line], lines[line], *lines[line:]]),
        lambda: b"\n".join([*lines[:line], b"\t" + lines[line], *lines[line + 1 :]]),
        lambda: b"\n".join([*lines[:line], b" " + lines[line], *lines[line + 1 :]]),
        lambda: b"",
        lambda: bytes(random_.randrange(256) for _ in range(100)),
    ])()  # fmt: skip


def use(config: Config) -> None:
    """What every job does with a conf before it has looked at any data."""
    plain = as_dict(config)
    json.dumps(plain, allow_nan=False)
    assert build(Config, plain) == config
    if "***" not in text(config):  # what may be a secret is not written, so it cannot be read back
        assert build(Config, yaml.load(text(config), getattr(yaml, "CSafeLoader", yaml.SafeLoader))).digest() == config.digest()
    text(config).encode()
    numbers = [value for value in leaves(plain) if isinstance(value, float)]
    assert all(map(math.isfinite, numbers))
    config.model_name, config.segmented, config.item_sources, config.sequence_digest(), config.vocabulary_digest()
    if config.time.as_of:
        as_of = config.time.as_of_ms
        days = [config.ingest.batch_days, config.labels.days, config.labels.validation_days, config.dynamix.history_days]
        days += [stream.max_days for stream in config.streams.values()] + list(config.lake.keep_days.values())
        moments = [config.time.horizon_end_ms, as_of + round(config.retrieval.hand_off_hours * HOUR_MS)]
        for moment in (*moments, *(as_of - round(one * DAY_MS) for one in days)):
            format_time(moment)
    if config.source.kind in OPTIONS:
        build(OPTIONS[config.source.kind], config.source.options, "source.options")


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [value]


def fuzz(confs: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """What became of so many confs, and how each TRACE was made."""
    random_ = random.Random(seed)
    seeds = [yaml.safe_load(path.read_text()) for path in CONFS] + [as_dict(load(path)) for path in CONFS]
    counts: Counter[str] = Counter()
    traces = []
    file = folder / "conf.yml"
    for number in range(confs):
        content, overrides = draw(random_, seeds)
        file.write_bytes(content)
        try:
            use(load(file, overrides))
            counts["valid"] += 1
        except ConfigError as error:
            sentence = str(error)
            good = "\n" not in sentence and len(sentence) <= LONGEST_SENTENCE
            counts["refused by a sentence" if good else "refused, but not by one sentence"] += 1
            if not good:
                traces.append(f"{number}: {sentence[:300]!r} of {len(sentence):,} characters, from {content[:200]!r} {overrides!r}"[:1200])
        except Exception as error:
            counts["TRACE"] += 1
            traces.append(f"{number}: {type(error).__name__}: {str(error)[:200]}, from {overrides!r} {content[-300:]!r}"[:1500])
    return counts, traces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--confs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts, traces = fuzz(options.confs, options.seed, Path(folder))
    print("\n".join(traces))
    print(f"{options.confs:,} confs (seed {options.seed}): " + ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())))
    sys.exit(1 if traces else 0)


if __name__ == "__main__":
    main()
