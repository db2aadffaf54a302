"""The Spark rim of the classic baselines: item histories out of `user_sequences`, and the embeddings of the whole table.

Enters: `user_sequences` (each user's row at as_of). Leaves: rows shaped as `user_embeddings`. The factorisation runs on the
driver on at most `fit_users` users; all users are embedded by the executors, one pass, no shuffle.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from ..arrow import matrix_column
from ..clock import known_before
from ..config import EmbeddingConfig
from ..errors import DataError, nearest
from ..tables import USER_EMBEDDINGS
from .histories import ItemHistories, offsets
from .item_vectors import ItemVectors, embed, fit_item2vec, fit_svd


def item_histories(user_sequences: DataFrame, sources: Sequence[str], before_ms: int | None = None) -> DataFrame:
    """user_id, country, as_of, items ARRAY<BIGINT>: the distinct item hashes over the sources, by first (known_at, hash).

    before_ms: only events known before it (None: all that the sequences hold).

    One row per row of user_sequences; items is empty where the user has none. Raises DataError on a source without arrays.
    """
    known = [name.removesuffix("__item_id") for name in user_sequences.columns if name.endswith("__item_id")]
    for source in sources:
        if source not in known:
            raise DataError(f"user_sequences has no arrays of the source '{source}'{nearest(source, known)}")
    if not sources:
        raise DataError(f"no source was named to describe users by their items; known: {', '.join(sorted(known)) or 'none'}")
    seen = F.concat(*[_seen(source) for source in sources])
    if before_ms is not None:
        seen = F.filter(seen, lambda pair: known_before(pair["at"], F.lit(before_ms)))
    in_order = F.array_sort(F.filter(seen, lambda pair: pair["item"].isNotNull() & pair["at"].isNotNull()))
    # array_distinct keeps the first of equal elements, so an item stands where it was first known.
    items = F.array_distinct(F.transform(in_order, lambda pair: pair["item"]))
    return user_sequences.select("user_id", "country", "as_of", items.alias("items"))


def longest_per_user(histories: DataFrame) -> DataFrame:
    """One of the rows of item_histories per user: training_examples has one per segment, and they all end at as_of."""
    size = F.struct(F.size("items"), "items")
    return histories.groupBy("user_id").agg(*(F.max_by(name, size).alias(name) for name in ("country", "as_of", "items")))


def distinct_items(sources: Sequence[str]) -> Column:
    """INT: how many distinct known items a row of user_sequences holds over the sources."""
    return F.size(F.array_distinct(F.array_compact(F.concat(*[F.col(f"{source}__item_id") for source in sources]))))


def _seen(source: str) -> Column:
    """ARRAY<STRUCT<at, item>>, empty where the user has no events of the source."""
    pairs = F.zip_with(
        f"{source}__known_at_ms",
        f"{source}__item_id",
        lambda at, item: F.struct(at.cast("long").alias("at"), item.cast("long").alias("item")),
    )
    return F.coalesce(pairs, F.array().cast("array<struct<at:bigint,item:bigint>>"))


def collect_histories(histories: DataFrame, config: EmbeddingConfig) -> ItemHistories:
    """The item lists of at most config.fit_users users with min_items items, those with the smallest hash of user_id, on the driver.

    Raises DataError when no user has enough items.
    """
    users = _with_enough_items(histories, config).select("user_id", "items")
    table = users.orderBy(F.xxhash64("user_id"), "user_id").limit(config.fit_users).toArrow()
    if not table.num_rows:
        raise DataError(
            f"no user has embedding.min_items={config.min_items} distinct items before as_of: lower it, name other embedding.sources, "
            "or choose a later time.as_of"
        )
    table = table.sort_by("user_id")
    lists = table["items"].combine_chunks()
    return ItemHistories(table["user_id"].to_numpy(), offsets(lists.value_lengths().to_numpy()), lists.flatten().to_numpy())


def fit(histories: DataFrame, config: EmbeddingConfig) -> ItemVectors:
    """Item vectors by config.method from collect_histories."""
    collected = collect_histories(histories, config)
    if config.method == "svd":
        return fit_svd(collected, config.dimension, config.seed)
    return fit_item2vec(collected, config.dimension, config.window, config.seed)


def embed_users(histories: DataFrame, model: ItemVectors, config: EmbeddingConfig) -> DataFrame:
    """Rows of `user_embeddings` for the users with min_items distinct items of which the model knows one.

    The model travels to every worker (4 d bytes an item). Independent of partitioning and row order.
    """
    model_id = model.model_id(config)

    def rim(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
        for batch in batches:
            lists = batch.column("items")
            vectors = embed(offsets(lists.value_lengths().to_numpy()), lists.flatten().to_numpy(), model)
            known = vectors.any(axis=1)
            kept = batch.filter(pa.array(known))
            given = [kept.column(name) for name in ("user_id", "country", "as_of")]
            made = [pa.array([model_id] * kept.num_rows, pa.string()), matrix_column(vectors[known])]
            yield pa.RecordBatch.from_arrays([*given, *made], names=list(USER_EMBEDDINGS.column_names))

    return _with_enough_items(histories, config).mapInArrow(rim, USER_EMBEDDINGS.ddl())


def _with_enough_items(histories: DataFrame, config: EmbeddingConfig) -> DataFrame:
    return histories.where(F.size("items") >= config.min_items)
