"""A load: what the source hands over, validated under the conf and by what the lake knows of its users.

Enters: the source's frames, of the whole log or of a batch of days. Leaves: the same rows with their verdicts, the profile of the load
before it, and what --dry-run says. Nothing is written here (ingestion.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from ..canonical import quoted
from ..clock import DAY_MS, EARLIEST_MS, MINUTE_MS, parse_time
from ..config import Config, IngestConfig
from ..errors import ConfigError
from ..lake import Lake
from ..privacy import identity
from ..privacy.tombstones import lake_key, without_forgotten
from ..tables import ADS, FOLLOWS
from . import clean, preflight, reasons

FAR_MS = 366 * DAY_MS  # so far in the future a time is none that a later batch may bring
Batch = tuple[int, int]  # [from, to), epoch ms of known_at


@dataclass(frozen=True)
class Load:
    """The source's rows with the verdicts of `clean`."""

    events: DataFrame
    ads: DataFrame
    follows: DataFrame
    users: DataFrame | None  # None where no attribute of users is declared
    tables: list[preflight.TableCounts]
    user_ids: str  # how they are written: identity.ids_are
    batch: Batch | None  # None: the whole log

    @property
    def refused(self) -> DataFrame:
        """Rows of QUARANTINE, without run_id."""
        return reduce(DataFrame.union, map(clean.refused, self.frames))

    @property
    def frames(self) -> list[DataFrame]:
        """Those that there are."""
        return [self.events, self.ads, self.follows, *([] if self.users is None else [self.users])]

    @property
    def kind(self) -> str:
        """'whole' or 'batch': loads of one kind are compared."""
        return "whole" if self.batch is None else "batch"


def batch_of(config: Config) -> Batch | None:
    """The days before time.as_of that a run takes, or None for the whole log."""
    days, end = config.ingest.batch_days, config.time
    return (max(end.as_of_ms - round(days * DAY_MS), EARLIEST_MS), end.as_of_ms) if days else None


def read_with(batch: Batch | None, ingest: IngestConfig) -> Batch | None:
    """The batch and what must be read before it, so that an event before it finds its next one."""
    return batch and (batch[0] - (round(ingest.session_gap_minutes * MINUTE_MS) if ingest.dwell_from_next else 0), batch[1])


def validated_load(
    lake: Lake,
    config: Config,
    batch: Batch | None,
    events: DataFrame,
    ads: DataFrame | None,
    follows: DataFrame | None,
    tables: DataFrame | None,
    users: DataFrame | None = None,
) -> Load:
    """The source's frames (sources.Canonical) with the verdicts; of events those of the batch (and those whose time cannot be read).

    Raises ConfigError where user ids would be written under another key, or in another way, than the lake's, and where users have declared
    attributes that no source gives.
    """
    key, spark = lake_key(lake, config.ingest.hash_user_ids), lake.spark
    validated = validated_events(lake, config, _pseudonyms(events, config, key, "user_id"))
    if batch is not None:
        known = F.unix_millis("known_at")
        never = (known < parse_time(config.time.not_before)) | (known >= _not_after_ms(config) + FAR_MS)  # no batch will ask for it
        validated = validated.where(known.isNull() | never | ((known >= batch[0]) & (known < batch[1])))
    ads = ads if ads is not None else spark.createDataFrame([], ADS.ddl()).drop("ad_hash")
    ends = ("src_user_id", "dst_user_id")
    follows = follows if follows is not None else spark.createDataFrame([], FOLLOWS.ddl())
    follows = without_forgotten(lake, _pseudonyms(follows, config, key, *ends), *ends)
    ids = identity.ids_are(config.ingest.hash_user_ids, key)
    declared = _validated_users(lake, config, users, key)
    follows = clean.validate_follows(follows, _not_after_ms(config))
    return Load(validated, clean.validate_ads(ads), follows, declared, preflight.count_tables(tables), ids, batch)


def _validated_users(lake: Lake, config: Config, users: DataFrame | None, key: bytes) -> DataFrame | None:
    """The source's users with the verdicts; None where nothing is declared of them. Raises ConfigError."""
    attributes = config.users.attributes
    if not attributes:
        return None
    if users is None:
        where = "map a table in source.options.users" if config.source.kind == "tables" else f"source.kind {config.source.kind} has none"
        raise ConfigError(f"users.attributes declares {', '.join(attributes)}, but the source gives no users: {where}, or declare none")
    users = without_forgotten(lake, _pseudonyms(users, config, key, "user_id"), "user_id")
    return clean.validate_users(users, attributes, _not_after_ms(config))


def _pseudonyms(frame: DataFrame, config: Config, key: bytes, *names: str) -> DataFrame:
    """The frame with the ids of these columns as the lake has them."""
    if not config.ingest.hash_user_ids:
        return frame
    return frame.select(*(identity.keyed_hash(quoted(name), key).alias(name) if name in names else quoted(name) for name in frame.columns))


def with_lake_ids(lake: Lake, config: Config, frame: DataFrame) -> tuple[DataFrame, str]:
    """A frame with a user_id, as the lake has ids and without forgotten users; and how ids are, for the facts of the run.

    Raises ConfigError where user ids would be written under another key, or in another way, than the lake's.
    """
    key = lake_key(lake, config.ingest.hash_user_ids)
    frame = without_forgotten(lake, _pseudonyms(frame, config, key, "user_id"), "user_id")
    return frame, identity.ids_are(config.ingest.hash_user_ids, key)


def validated_events(lake: Lake, config: Config, events: DataFrame, others: DataFrame | None = None) -> DataFrame:
    """`clean.validate_events` under the conf, of events whose user ids are those of the lake. Forgotten users are left out."""
    return clean.validate_events(
        without_forgotten(lake, events, "user_id"),
        list(config.streams), config.attribute_kinds(), parse_time(config.time.not_before), _not_after_ms(config), config.ingest,
        config.model.embedding_dimensions, others,
    )  # fmt: skip


def _not_after_ms(config: Config) -> int:
    return parse_time(config.time.not_after) if config.time.not_after else int(time.time() * 1000)


def last_profile(lake: Lake, kind: str) -> dict[str, dict[str, object]]:
    """The profile of the last published load of the same kind (whole or batch); empty without one."""
    if not lake.published_versions():
        return {}
    runs = lake.runs().where("job = 'ingest_events' AND status = 'published'").orderBy(F.desc("finished")).limit(50)
    for row in runs.select("facts").collect():
        facts = row["facts"] or {}
        if facts.get("load") == kind:
            return dict(json.loads(facts["profile"]))
    return {}


def count_reasons(refused: DataFrame) -> list[Row]:
    """One row per source and reason, in their order: source, reason, count."""
    return refused.groupBy("source", "reason").count().orderBy("source", "reason").collect()


def sentences(per_reason: Sequence[Row]) -> list[str]:
    """What is said of each reason, with its remedy."""
    return [_refused(row["source"], row["reason"], row["count"]) for row in per_reason]


def _refused(source: str, reason: str, rows: int) -> str:
    known = reasons.reason_of(reason)
    return f"refused {rows:,} {source}: {reason}" + (f". {known.remedy}" if known else "")


def remarks(load: Load) -> list[str]:
    """What the mapped tables have to say of themselves."""
    return [remark for table in load.tables for remark in table.remarks]


def described(load: Load, found: Mapping[str, preflight.SourceProfile], per_reason: Sequence[Row], lake: Lake, config: Config) -> str:
    """What --dry-run says: the load as it would be validated, and what would be refused, by reason. load.events: persisted."""
    off = [
        *preflight.what_is_off(found, last_profile(lake, load.kind), config.ingest),
        *preflight.what_is_empty(load.tables, found, load.batch),
        *remarks(load),
    ]
    lines = [*preflight.describe(found, config.streams), *sentences(per_reason), *preflight.heavy_hitters(load.events)]
    lines += [f"off: {sentence}" for sentence in off]
    return "\n".join(f"  {line}" for line in lines)
