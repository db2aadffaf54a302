"""Impressions -> cross representations (LFM4Ads) inside Spark, summed per user, per ad and per day, and the decaying means of these sums.

Enters: rows of `training_examples` with `shown_known_at_ms`, an `Artifact`. Leaves: rows of `cross_sums` and of `cross_representations`.
An impression counts in the day in which it became known, read by what was known before it; so a mean as of a day holds nothing of what
was known at that day or later. Sums are of whole millionths: the order of rows and the cut into days do not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from ..arrow import by_value, matrix_column
from ..batches.layout import SHOWN
from ..clock import DAY_MS
from ..config import EVERYBODY, InferenceConfig, TransferConfig
from ..errors import DataError, nearest
from ..lake import timestamp
from ..lake.work_units import made_once
from ..model.artifact import Artifact
from ..model.representations import cross_width
from ..tables import CROSS_REPRESENTATIONS, CROSS_SUMS, SHOWN_KNOWN
from .representations import RepresentationReader, read_kinds, worker_reader

MILLIONTHS = 1_000_000


def cross_sums(
    examples: DataFrame, artifact: Artifact, inference: InferenceConfig, layer: str, ends_ms: Sequence[int], folder: str = ""
) -> DataFrame:
    """Rows of CROSS_SUMS of the days that end at ends_ms, exclusive (a whole number of days apart), of one as_of of training_examples.

    One pass over the rows with such impressions, one shuffle of what is summed. folder: where the sums of each batch of users are kept
    (lake.resumable_folder), so that the model does not read them again when a killed run starts anew; empty: nowhere. Raises DataError on
    rows without SHOWN_KNOWN or an array that the model reads.
    """
    kinds: dict[str, str] = {}
    for segment in (EVERYBODY, *artifact.spec.policies):
        kinds |= read_kinds(artifact.spec.layout(impressions=True, segment=segment))
    for name in (SHOWN_KNOWN, *kinds):
        if name not in examples.columns:
            near = nearest(name, examples.columns)
            raise DataError(f"training_examples lacks the array '{name}'{near}: run jobs/build_sequences.py again for this as_of")
    arrays = [*(name for name in kinds if name in SHOWN or name.startswith("impression__")), "weight", SHOWN_KNOWN]
    one = F.filter(F.arrays_zip(*arrays), lambda each: _end_of(each[SHOWN_KNOWN], ends_ms[0]).isin([int(end) for end in ends_ms]))
    others = [name for name in kinds if name not in arrays]
    wanted = examples.select("user_id", "segment", one.alias("_shown"), *others).where(F.size("_shown") > 0)
    wanted = wanted.select("user_id", "segment", *(F.col("_shown")[name].alias(name) for name in arrays), *others)
    model_id, grid = artifact.model_id, int(ends_ms[0])
    width = cross_width(artifact.spec, layer)

    def rim(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        def read(batch: pa.RecordBatch) -> pa.Table:
            reader = worker_reader(artifact, layer, inference)
            return pa.Table.from_batches([summed(rows, reader, segment, grid) for segment, rows in by_value(batch, "segment")])

        for batch in batches:
            sums = made_once(folder, unit_of(batch), partial(read, batch)) if folder else read(batch)
            yield from sums.to_batches()

    parts = wanted.mapInArrow(rim, "kind STRING, user_id STRING, ad_hash BIGINT, end_ms BIGINT, weight BIGINT, sums ARRAY<BIGINT>")
    total = [F.sum(F.col("sums")[place]).alias(f"_{place}") for place in range(width)]
    whole = parts.groupBy("kind", "user_id", "ad_hash", "end_ms").agg(F.sum("weight").alias("weight"), *total)
    return whole.select(
        "kind", "user_id", "ad_hash", F.timestamp_millis("end_ms").alias("as_of"), F.lit(model_id).alias("model_id"),
        F.lit(layer).alias("layer"), "weight", F.array(*(f"_{place}" for place in range(width))).alias("sums"),
    ).select(*CROSS_SUMS.column_names)  # fmt: skip


def unit_of(rows: pa.RecordBatch) -> str:
    """What the sums of these rows are called: by their users and segments, for a user has a row per segment."""
    keys = [rows.column(name).to_pylist() for name in ("user_id", "segment")]
    return f"sums-{hashlib.sha256(repr(keys).encode()).hexdigest()}"


def summed(rows: pa.RecordBatch, reader: RepresentationReader, segment: str, end_ms: int) -> pa.RecordBatch:
    """Per user and day, and per ad and day: the weights and the weighted representations, in millionths. end_ms: the end of any day.

    Raises DataError where a number of a representation is not finite: whole millionths have no sign for that.
    """
    user, found = reader.read(rows, segment)
    if len(broken := user[~np.isfinite(found).all(axis=1)]):
        named = rows.column("user_id")[int(broken[0])].as_py()
        raise DataError(f"what the model says of an impression of user '{named}' is not finite: look at the numbers of this user's events")
    known, weight, ads = (rows.column(name).flatten() for name in (SHOWN_KNOWN, "weight", "ad_id"))
    ends = end_ms + -((end_ms - 1 - known.to_numpy()) // DAY_MS) * DAY_MS
    weights = np.rint(weight.to_numpy() * MILLIONTHS).astype(np.int64)
    values = np.rint(found * weight.to_numpy()[:, None] * MILLIONTHS).astype(np.int64)
    there = ads.is_valid().to_numpy(zero_copy_only=False)
    ad = ads.fill_null(0).to_numpy()
    of_users = _by_key(user, ends, weights, values)
    of_ads = _by_key(ad[there], ends[there], weights[there], values[there])
    users, shown = len(of_users[0]), len(of_ads[0])
    columns = [
        pa.array(["user"] * users + ["ad"] * shown),
        pa.concat_arrays([rows.column("user_id").take(pa.array(of_users[0])), pa.nulls(shown, pa.string())]),
        pa.concat_arrays([pa.nulls(users, pa.int64()), pa.array(of_ads[0])]),
        *(pa.array(np.concatenate([of_users[part], of_ads[part]])) for part in (1, 2)),
        matrix_column(np.concatenate([of_users[3], of_ads[3]])),
    ]
    return pa.RecordBatch.from_arrays(columns, names=["kind", "user_id", "ad_hash", "end_ms", "weight", "sums"])


def _by_key(keys: np.ndarray, ends: np.ndarray, weights: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, ...]:
    """(key, end, weight, sums) of each pair of key and end."""
    pairs, place = np.unique(np.stack([keys, ends], axis=1), axis=0, return_inverse=True)
    weight, sums = np.zeros(len(pairs), np.int64), np.zeros((len(pairs), values.shape[1]), np.int64)
    np.add.at(weight, place.ravel(), weights)
    np.add.at(sums, place.ravel(), values)
    return pairs[:, 0], pairs[:, 1], weight, sums


def _end_of(known_ms: Column, end_ms: int) -> Column:
    """When the day of known_ms ends, exclusive, among days of which one ends at end_ms."""
    return F.lit(end_ms) - F.floor((F.lit(end_ms - 1) - known_ms) / DAY_MS) * DAY_MS


def window_ends(config: TransferConfig, as_of_ms: int) -> list[int]:
    """When the days of the window end, exclusive, epoch ms, the newest first."""
    return [as_of_ms - day * DAY_MS for day in range(config.window_days)]


def decaying_means(sums: DataFrame, config: TransferConfig, as_of_ms: int) -> DataFrame:
    """Rows of CROSS_REPRESENTATIONS as of as_of_ms: of each user and each ad the mean over the window, an impression by its age in days.

    sums: CROSS_SUMS of one model and layer. Days are added from the oldest on, so that equal sums give equal means.
    """
    mine = sums.where(F.unix_millis("as_of").isin(window_ends(config, as_of_ms)))
    age = (F.lit(as_of_ms) - F.unix_millis("as_of")) / DAY_MS
    part = F.struct("as_of", F.pow(F.lit(0.5), age / config.half_life_days).alias("share"), "weight", "sums")
    whole = mine.groupBy("kind", "user_id", "ad_hash", "model_id", "layer").agg(F.sort_array(F.collect_list(part)).alias("_parts"))

    def total(of: Column) -> Column:
        return F.aggregate(of, F.lit(0.0), lambda so_far, one: so_far + one)

    weight = total(F.transform("_parts", lambda one: one["share"] * one["weight"]))
    mean = F.transform(
        F.sequence(F.lit(0), F.size(F.col("_parts")[0]["sums"]) - 1),
        lambda place: F.round(
            total(F.transform("_parts", lambda one: one["share"] * F.get(one["sums"], place))) / F.col("_weight"), 6
        ).cast("float"),
    )
    return (
        whole.withColumn("_weight", weight)
        .where("_weight > 0")
        .select(
            "kind", "user_id", "ad_hash", timestamp(as_of_ms).alias("as_of"), "model_id", "layer",
            (F.col("_weight") / MILLIONTHS).alias("weight"), mean.alias("representation"),
        )
        .select(*CROSS_REPRESENTATIONS.column_names)
    )  # fmt: skip
