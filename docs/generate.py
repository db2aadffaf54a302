"""Writes the reference pages from what the code declares: every table and column, every setting of the configuration.

    python -m docs.generate            # writes docs/reference/tables.md and docs/reference/configuration.md

What a setting means is the comment behind its field. What it may be is found by asking: the class is made with a value that cannot be
right, and says in its error what is allowed. tests/test_docs.py compares the pages with this script.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import json
import re
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alure_spark import tables
from alure_spark.config import Config, ExpertConfig, FieldConfig, SequenceConfig, StreamConfig, TaskConfig
from alure_spark.errors import ConfigError
from alure_spark.sources import completejourney, mapping
from alure_spark.sources.synthetic.options import WorldOptions

PAGES = Path(__file__).parent / "reference"

OPEN_COLUMNS = {  # what the conf adds to a table whose columns are not all fixed
    "events": "one column per attribute that a stream declares, if it is not here already",
    "users": "one column per attribute of `users.attributes`; null where the row does not say it",
    "user_sequences": "for every stream `s`: `s__known_at_ms`, `s__event_time_ms`, `s__item_id` and one `s__<attribute>` per declared "
    "attribute; arrays of equal length, oldest event first",
    "training_examples": "per task (`labels.tasks.NAME`) an array called as the task (`click`, `conversion`): `ARRAY<INT>`, 1 when a "
    "response that counts was known before `as_of`, or `ARRAY<DOUBLE>`, the sum over these responses; the arrays of `user_sequences`; "
    "`impression__<attribute>` for each of `labels.impression_attributes`",
    "impression_examples": "what fields of `ranking.fields` read (`reads: example.NAME`), and per task of `ranking.tasks` a label, `INT`, "
    "of `ranking.values` `DOUBLE`",
    "impression_scores": "per task its label (`INT`) and `p_<task>` (`DOUBLE`), its calibrated probability; per value task its label "
    "(`DOUBLE`) and `expected_<task>` (`DOUBLE`), its calibrated expected value; with `ranking.exploration`, "
    "per task `logit_mean_<task>` and `logit_variance_<task>` of the posterior, and `explored_<task>`, the probability of one draw from it",
    "ranking_scores": "per task `p_<task>` (`ARRAY<DOUBLE>`), its calibrated probability; per value task `expected_<task>` "
    "(`ARRAY<DOUBLE>`), its calibrated expected value; with `ranking.exploration` `explored`, the score "
    "by one draw from the posterior, and per task `logit_mean_<task>`, `logit_variance_<task>` and `explored_<task>`, its probability "
    "by that draw",
    "ranking_examples": "one column per task (`INT`, of a sum `DOUBLE`), and `impression__<attribute>` for each of "
    "`labels.impression_attributes`",
}
MEANINGS = {  # of the settings that have no comment behind their field
    "name": "name of the configuration: MLflow runs and the registered model carry it",
    "spark.master": "Spark's master where no session is active",
    "spark.driver_memory": "memory of the driver's JVM, where the job starts it",
    "spark.shuffle_partitions": "`spark.sql.shuffle.partitions`",
    "tracking.uri": "MLflow tracking store",
    "tracking.experiment": "MLflow experiment",
    "source.options": "the settings of that kind of source",
    "embedding.method": "what makes the embedding: the ALURE model, or a classic method",
    "embedding.seed": "random seed",
    "labels.impression_source": "stream of the impressions that get labels",
    "labels.click_source": "stream of the clicks: responses of the task click, where `tasks` declares none",
    "labels.conversion_source": "stream of the conversions: responses of the task conversion, where `tasks` declares none",
    "labels.click_window_hours": "how long after an impression a click still counts",
    "labels.conversion_window_hours": "how long after an impression a conversion still counts",
    "dynamix.conversion_sources": "streams whose events count as conversions",
    "feature_policy.NAME.sources": "streams that are read; nothing: all",
    "model.layers": "Transformer layers per source",
    "model.heads": "attention heads of a layer",
    "model.feed_forward": "width of a layer's feed-forward network",
    "model.dropout": "dropout rate in training",
    "model.seed": "random seed of the weights",
    "semantic_ids.epochs": "passes over the embeddings",
    "semantic_ids.batch": "embeddings per step",
    "semantic_ids.learning_rate": "of Adam",
    "semantic_ids.kmeans_iterations": "rounds of the K-means that the codebooks start from",
    "semantic_ids.seed": "random seed",
    "training.batch_users": "users per training step",
    "training.epochs": "passes over the training rows at most",
    "training.learning_rate": "of AdamW; the two shares below scale it for some parameters",
    "training.weight_decay": "of matrices only",
    "training.clip_norm": "gradients of a larger norm are scaled down to it",
    "training.objectives.click": "weight of the click loss",
    "training.objectives.conversion": "weight of the conversion loss",
    "training.seed": "random seed of the order of the batches",
    "graph.users_per_cluster": "no more than one cluster per so many users of a country",
    "graph.kmeans_iterations": "rounds of K-means at most",
    "inference.precision": "of the model's arithmetic",
    "graph.blend": "what each graph counts in the blend",
    "graph.pagerank.least_share": "a smaller share of the walk is not followed further",
    "graph.seed": "random seed",
    "dynamix.active_share": "share of the impressions that active users have, with `dynamix.threshold: share`",
    "retrieval.excluded_accounts": "nobody gets their ads",
    "evaluate.bootstrap": "resamples behind an interval",
    "evaluate.seed": "random seed",
    "source.options.events": "the tables of events, at least one",
    "source.options.ads": "the tables of ads",
    "source.options.follows": "the tables of follows",
    "source.options.events[].format": "format of a `path`: delta, parquet, csv, json or another that Spark reads",
}
WORLD = {  # the same of the synthetic world
    "users": "users of the world",
    "days": "days of the log",
    "seed": "random seed",
    "communities": "groups of users with a taste in common",
    "categories_per_community": "categories that a community prefers",
    "items_per_category": "organic items of a category",
    "accounts_per_category": "ad accounts of a category",
    "ads_per_account": "ads of an account",
    "media_dim": "length of a media embedding",
    "community_interest": "communities prefer their own categories",
    "dwell_law": "some users convert the more the longer they stay, each with a slope of its own",
    "time_habits": "users have hours of the day, and weekends differ",
    "arrival_delay": "events become known later than they happen",
    "attribute_effects": "attributes of ads change how likely a click is",
    "follow_homophily": "users follow their own community",
    "conversion_delay": "conversions come some time after the impression",
    "media_clusters": "media embeddings tell the category",
    "text_topics": "texts tell the category",
    "activity_skew": "a few users make many of the events",
}
MEANINGS |= {f"source.options.{name}": meaning for name, meaning in WORLD.items()}
IMPOSSIBLE: dict[type, tuple[Any, ...]] = {str: ("?",), int: (-1, -(10**9)), float: (-1.0, -1e9), bool: ()}


def row(*cells: str) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace('<', '&lt;') for cell in cells)} |"


def table_lines(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [row(*head), row(*["---"] * len(head)), *(row(*cells) for cells in rows)]


def tables_page() -> str:
    """docs/reference/tables.md: an overview, then one section per table."""
    lines = [
        "# Tables",
        "",
        "<!-- Written by: python -m docs.generate -->",
        "Every table of the lake. `TIMESTAMP` columns are UTC with millisecond content. A column whose name ends in `_ms` holds",
        "epoch milliseconds, or a duration in milliseconds. An `id_hash` is the signed 64-bit xxhash64 of the raw id. Jobs read a",
        "table only at the version that the table `runs` names.",
        "",
        *table_lines(
            ("table", "made by", "what a row is"),
            [(f"[{one.name}](#{one.name})", _maker(one), one.doc) for one in all_tables()],
        ),
    ]
    for one in all_tables():
        lines += ["", f"## {one.name}", "", one.doc, "", *_about(one), ""]
        rows = [(f"`{column.name}`", column.type, "never" if column.required else "may be", column.doc) for column in one.columns]
        lines += table_lines(("column", "type", "null", "meaning"), rows)
    return "\n".join([*lines, ""])


def all_tables() -> list[tables.Table]:
    return list(tables.TABLES.values())


def _maker(one: tables.Table) -> str:
    return "every job" if one.name == "runs" else f"`jobs.{one.producer}`"


def _about(one: tables.Table) -> list[str]:
    said = [f"- Key: {', '.join(f'`{name}`' for name in one.key)}."]
    if one.partitions:
        said.append(f"- Partitioned by {', '.join(f'`{name}`' for name in one.partitions)}.")
    if one.open:
        said.append(f"- Further columns by configuration: {OPEN_COLUMNS[one.name]}.")
    if one.name == "events":
        said.append(f"- Your tables must give {', '.join(f'`{name}`' for name in tables.REQUIRED_INPUT_COLUMNS)}.")
        said.append(f"- Ingestion adds {', '.join(f'`{name}`' for name in tables.DERIVED_EVENT_COLUMNS)}.")
    if one.version > 1:
        said.append(f"- Schema version {one.version}.")
    if one.not_content:
        said.append(f"- Not part of the content hash: {', '.join(f'`{name}`' for name in one.not_content)}.")
    return said


def configuration_page() -> str:
    """docs/reference/configuration.md: one section per section of the conf, then the options of each kind of source."""
    lines = [
        "# Configuration",
        "",
        "<!-- Written by: python -m docs.generate -->",
        "Every setting of a file in `conf/`, with its default. `--set section.name=value` overrides one value on the command",
        "line, and `python -m jobs.config show --conf FILE` prints the whole configuration as a job sees it. An unknown key is",
        "an error that names the nearest known one. `streams` has no default: a configuration declares at least one stream.",
        "`NAME` stands for a name of your own. Times are UTC; where a setting is a share, 0.1 means 10 %.",
    ]
    described: dict[type, str] = {}
    for title, cls, path in sections():
        lines += ["", f"## {title}", "", *_doc(cls)]
        if cls in described:
            lines.append(f"The same settings as `{described[cls]}`.")
        else:
            lines += settings_table(cls, path)
        described.setdefault(cls, title)
    return "\n".join([*lines, ""])


def sections() -> list[tuple[str, type, str]]:
    """(title, dataclass, dotted path) of everything that a conf may hold, a section before its own parts."""
    kinds = (("tables", mapping.Options), ("completejourney", completejourney.Options), ("synthetic", WorldOptions))
    return [
        *((path or "Top level", cls, path) for path, cls in _parts(Config, "")),
        *((f"source.options with kind: {kind}", cls, "source.options") for kind, cls in kinds),
        ("source.options.events", mapping.TableMapping, "source.options.events[]"),
    ]


def _parts(cls: type, path: str) -> Iterator[tuple[str, type]]:
    yield path, cls
    for name, hint in typing.get_type_hints(cls).items():
        where = f"{path}.{name}" if path else name
        if dataclasses.is_dataclass(hint):
            yield from _parts(typing.cast(type, hint), where)
        elif inner := _inner_section(hint):
            yield from _parts(inner, f"{where}.NAME")


def undocumented() -> list[str]:
    """Settings without a meaning, and MEANINGS that nothing asks for."""
    asked: set[str] = set()
    seen: set[type] = set()
    for _, cls, path in sections():
        said = comments(cls)
        asked |= {dotted for dotted, _, field in settings(cls, path) if not said.get(field.name) and cls not in seen}
        seen.add(cls)
    missing = [f"{name} has no comment behind its field and no entry in MEANINGS" for name in sorted(asked - set(MEANINGS))]
    return missing + [f"MEANINGS holds {name}, which is no setting or has a comment" for name in sorted(set(MEANINGS) - asked)]


def settings(cls: type, path: str) -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """(dotted path, type hint, field) of the settings of a section, without its sections."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if not dataclasses.is_dataclass(hints[field.name]) and not _inner_section(hints[field.name]):
            yield f"{path}.{field.name}" if path else field.name, hints[field.name], field


def settings_table(cls: type, path: str) -> list[str]:
    said = comments(cls)
    rows = []
    for dotted, hint, field in settings(cls, path):
        meaning = said.get(field.name) or MEANINGS.get(dotted, "")
        rows.append((f"`{dotted.rpartition('.')[2]}`", _kind(hint), _default(field), allowed(cls, field.name, hint), meaning))
    return table_lines(("setting", "type", "default", "allowed", "meaning"), rows) if rows else []


def comments(cls: type) -> dict[str, str]:
    """field -> the comment at the end of its declaration, else the comment lines directly above it."""
    text = textwrap.dedent(inspect.getsource(cls))
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    found_comments = [token for token in tokens if token.type == tokenize.COMMENT]
    lines = {token.start[0]: (token.string.lstrip("# "), token.line.strip().startswith("#")) for token in found_comments}
    body = typing.cast(ast.ClassDef, ast.parse(text).body[0]).body
    found = {}
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above: list[str] = []
            line = node.lineno - 1
            while line in lines and lines[line][1]:
                above.insert(0, lines[line][0])
                line -= 1
            at_end, alone = lines.get(node.end_lineno or node.lineno, ("", True))
            found[node.target.id] = " ".join(above) if alone else at_end
    return found


def allowed(cls: type, name: str, hint: Any) -> str:
    """What the class says is allowed when the setting is something impossible; '' where it takes anything of the type."""
    if hint is bool:
        return ""
    start = _instance(cls)
    for value in _impossible(hint):
        try:
            dataclasses.replace(start, **{name: value})
        except ConfigError as error:
            if (found := re.search(r"allowed: (.*)$", str(error))) and name in str(error).partition("allowed")[0]:
                return found[1]
    return ""


def _instance(cls: type) -> Any:
    """One of the class with nothing set but what it asks for."""
    if cls is Config:
        return Config(streams={"a": StreamConfig()})
    examples = {
        TaskConfig: {"source": "a"},
        FieldConfig: {"reads": "impression.ad_id", "encoding": "id"},
        SequenceConfig: {"source": "a", "category": "item_id", "target": "ad"},
        ExpertConfig: {"kind": "fm", "table": "wide"},
    }
    if cls in examples:
        return cls(**examples[cls])
    if cls is mapping.TableMapping:
        return mapping.TableMapping(columns={}, path="a")
    if cls is mapping.Options:
        return mapping.Options(events=(mapping.TableMapping(columns={}, path="a", source="b"),))
    return cls()


def _impossible(hint: Any) -> tuple[Any, ...]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return tuple((value,) for value in _impossible(arguments[0]))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return tuple({"?": value} for value in _impossible(arguments[1]))
    return IMPOSSIBLE.get(hint, ())


def _inner_section(hint: Any) -> type | None:
    """The dataclass that a mapping of sections holds."""
    arguments = typing.get_args(hint)
    inner = arguments[1] if len(arguments) == 2 else None
    return typing.cast(type, inner) if dataclasses.is_dataclass(inner) else None


def _kind(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return f"{_kind(arguments[0])}, or nothing"
    if origin is tuple:
        return f"list of {_kind(arguments[0])}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"mapping to {_kind(arguments[1])}"
    if dataclasses.is_dataclass(hint):
        return "section"
    return {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "anything"}[hint]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "must be given"
    return f"`{json.dumps(value, ensure_ascii=False)}`" if value not in (None, "", {}, ()) else "empty"


def _doc(cls: type) -> list[str]:
    """The class's own docstring as a paragraph; a dataclass without one has its signature there, which says nothing."""
    doc = inspect.getdoc(cls) or ""
    return [] if doc.startswith(f"{cls.__name__}(") else [*doc.splitlines(), ""]


PAGE_TEXTS = {"tables.md": tables_page, "configuration.md": configuration_page}


def main() -> None:
    PAGES.mkdir(exist_ok=True)
    for name, text in PAGE_TEXTS.items():
        (PAGES / name).write_text(text())


if __name__ == "__main__":
    main()
