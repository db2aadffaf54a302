"""A ready-made table of labelled impressions: cleaned on its way into the lake, and in the shape that the ranking model is trained on.

Enters: rows of source.options.examples. Leaves: `impression_examples` (accepted rows), `quarantine` (refused ones with a reason), and
rows in the shape of TRAINING_EXAMPLES, one per user, without a history.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from ..canonical import MALFORMED, quoted
from ..config import EVERYBODY, RankingConfig
from ..lake import timestamp
from ..tables import IMPRESSION_EXAMPLES
from . import reasons
from .clean import RAW, first_reason, id_hash, missing, not_a_number, typed_frame, unusable, without_blanks, without_empty
from .content import NO_COUNTRY
from .examples import LARGEST
from .ranking_fields import field_value

SPLITS = ("train", "validation", "test")
SOURCE = "examples"


def columns_of(config: RankingConfig) -> dict[str, str]:
    """Columns of the table beside the fixed ones -> kind as of an attribute: what fields read, and the labels of tasks."""
    read = {one.name: one.kind for one in config.fields.values()}
    return read | dict.fromkeys(config.tasks, "numeric")


def validate_examples(frame: DataFrame, config: RankingConfig) -> DataFrame:
    """Every input row with the verdict on it: `reason` is null where it stays. Equal rows stay as often as they come.

    Raises DataError on a missing column or one of the wrong type.
    """
    columns = columns_of(config)
    typed = typed_frame(frame, IMPRESSION_EXAMPLES, columns, (), ("user_id", "event_time", *columns))
    texts = [name for name, kind in columns.items() if kind == "categorical"]
    typed = without_empty(without_blanks(typed, {"ad_id", "split", *texts})).withColumn("weight", F.coalesce("weight", F.lit(1.0)))
    finite = F.abs("weight") < float("inf")
    reason = first_reason(
        missing("user_id"),
        (F.col("event_time").isNull(), reasons.NO_TIME.of(column="event_time")),
        (F.col("_lost").isNotNull(), F.col("_lost")),
        *(_unlearnable(task, task in config.values) for task in config.tasks),
        (~F.coalesce(finite & (F.col("weight") >= 0), F.lit(False)), reasons.NO_WEIGHT.text),
        (~F.coalesce("split", F.lit("train")).isin(*SPLITS), reasons.NO_SPLIT.text),
        *(check for name, kind in columns.items() if kind == "embedding" for check in unusable(name)),
        *(check for name, kind in columns.items() if kind == "numeric" for check in not_a_number(name)),
    )
    return typed.withColumn("reason", reason).drop("_lost", MALFORMED)


def _unlearnable(task: str, is_value: bool) -> tuple[Column, str]:
    """When a label is none of its kind, and the reason."""
    label = quoted(task)
    learnable = (label >= 0) & (label <= LARGEST) if is_value else label.isin(0.0, 1.0)
    reason = reasons.NO_VALUE if is_value else reasons.NO_LABEL
    return ~F.coalesce(learnable, F.lit(False)), reason.of(column=task)


def accepted_examples(validated: DataFrame, config: RankingConfig) -> DataFrame:
    """The rows that stay, labels as whole numbers, those of values as they are."""
    labels = {task: quoted(task).cast("double" if task in config.values else "int") for task in config.tasks}
    return validated.where("reason IS NULL").drop("reason", RAW).withColumns(labels)


def refused_examples(validated: DataFrame) -> DataFrame:
    """The refused rows as QUARANTINE holds them, without run_id."""
    return validated.where("reason IS NOT NULL").select(F.lit(SOURCE).alias("source"), "reason", F.col(RAW).alias("row"))


def example_rows(examples: DataFrame, config: RankingConfig, as_of_ms: int, validation_ms: int) -> DataFrame:
    """One row per user, in the shape of TRAINING_EXAMPLES with `impression__<field>` per field: impressions before as_of, without tests.

    Of a row without a split the last validation_ms before as_of validate. Ordered by time, ties by content.
    """
    time_ms = F.unix_millis("event_time")
    split = F.coalesce("split", F.when(time_ms < as_of_ms - validation_ms, "train").otherwise("validation"))
    shown = examples.where(time_ms < as_of_ms).withColumn("split", split).where("split <> 'test'")
    listed = _listed(shown, config).groupBy("user_id").agg(F.sort_array(F.collect_list("one")).alias("_shown"))
    one = F.col("_shown")
    return listed.select(
        "user_id", F.lit(NO_COUNTRY).alias("country"), timestamp(as_of_ms).alias("as_of"), F.lit(EVERYBODY).alias("segment"),
        F.transform(one, lambda shown: F.lit("")).alias("impression_id"),
        *(one[name].alias(name) for name in ("time_ms", "ad_id", "account_id", "weight", "split", *config.tasks)),
        F.transform(one["time_ms"], lambda t: F.lit(as_of_ms) - t).alias("label_age_ms"),
        *(one[f"impression__{name}"].alias(f"impression__{name}") for name in config.fields),
    )  # fmt: skip


def _listed(examples: DataFrame, config: RankingConfig) -> DataFrame:
    """user_id and `one`: the impression as a struct that sorts by time, then by content."""
    fields = [field_value(quoted(one.name), one.kind).alias(f"impression__{name}") for name, one in config.fields.items()]
    content = F.xxhash64(*(quoted(name).cast("string") for name in sorted(examples.columns)))
    one = F.struct(
        F.unix_millis("event_time").alias("time_ms"), content.alias("content"), id_hash(F.col("ad_id")).alias("ad_id"),
        F.lit(None).cast("bigint").alias("account_id"), "weight", "split", *map(quoted, config.tasks), *fields,
    )  # fmt: skip
    return examples.select("user_id", one.alias("one"))


def rows_to_score(examples: DataFrame, config: RankingConfig, as_of_ms: int) -> DataFrame:
    """Every row of examples, of whatever split: the fixed columns, as_of, labels, and `impression__<field>` each."""
    fields = [field_value(quoted(one.name), one.kind).alias(f"impression__{name}") for name, one in config.fields.items()]
    fixed = ["user_id", "event_time", "ad_id", "split"]
    return examples.select(*fixed, timestamp(as_of_ms).alias("as_of"), *map(quoted, config.tasks), *fields)
