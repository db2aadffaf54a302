"""The Arrow adapter of training: `training_examples` -> packed rows in a folder that lives as long as one training.

Enters: rows of `training_examples` at a fixed table version, of one segment, streams already cut by the feature policy. Leaves:
Parquet, one row per user, every array as little-endian BINARY. Lists would do for pyarrow, but petastorm refuses lists of unequal
length and makes a fixed-width numpy array of strings (which drops trailing zero bytes), so ids and names are bytes too.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..arrow import bytes_column
from ..batches.layout import Layout  # no torch: executors import this module
from ..batches.texts_and_vectors import NUMBER_TYPES, text_or_vector_array
from ..errors import DataError, nearest
from ..lake import make_private, scratch_folder

# Kind of a column (Layout) -> its packed values. A categorical null is said by `<column>__present` (u1), a numeric one is NaN.
KINDS = {"integer": "<i8", "categorical": "<i8", "numeric": "<f4", "weight": "<f4", "flag": "u1"} | {
    kind: dtype.str for kind, dtype in NUMBER_TYPES.items()
}
NAMES = ("user_id", "country", "segment")  # UTF-8
# A bucket is one file of one row group; hashed ids do not repeat enough for dictionaries.
WRITING: dict[str, int | str] = {"maxRecordsPerFile": 0, "parquet.block.size": 2**31 - 1, "parquet.enable.dictionary": "false"}


def packed(examples: DataFrame, layout: Layout) -> DataFrame:
    """user_id, country, segment BINARY (UTF-8), as_of_ms BIGINT, and each array column of the layout as BINARY (see KINDS).

    `split` becomes 1 where it is 'validation'. A null array is an empty one. No shuffle. Raises DataError on a missing column;
    the job fails with a DataError where a time, label, weight or split is null.
    """
    kinds, widths = layout.columns() | layout.impression_columns(), layout.column_widths()
    for name in kinds:
        if name not in examples.columns:
            raise DataError(
                f"training_examples lacks the array '{name}'{nearest(name, examples.columns)}: run jobs/build_sequences.py again"
            )

    def pack_all(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
        for batch in batches:
            yield pack(batch, kinds, widths)

    schema = [f"`{name}` BINARY" for name in (*NAMES, *_binary_columns(kinds))]
    return examples.select(*NAMES, *kinds, F.unix_millis("as_of").alias("as_of_ms")).mapInArrow(
        pack_all, ", ".join([*schema, "as_of_ms BIGINT"])
    )


def _binary_columns(kinds: Mapping[str, str]) -> list[str]:
    return [*kinds, *(f"{name}__present" for name, kind in kinds.items() if kind == "categorical")]


def pack(batch: pa.RecordBatch, kinds: Mapping[str, str], widths: Mapping[str, int]) -> pa.RecordBatch:
    """Lists -> bytes; the values of an integer column without nulls are not copied. widths: numbers per event of texts and embeddings."""
    columns = {name: batch.column(name).cast(pa.binary()) for name in NAMES}
    for name, kind in kinds.items():
        lists = batch.column(name)
        lengths, values = pc.fill_null(lists.value_lengths(), 0).to_numpy(), lists.flatten()
        if kind == "categorical":
            columns[f"{name}__present"] = bytes_column(values.is_valid().cast(pa.uint8()).to_numpy(), name, lengths)
            values = pc.fill_null(values, 0)
        elif kind == "numeric":
            values = pc.fill_null(values, float("nan"))
        elif kind in NUMBER_TYPES:
            columns[name] = bytes_column(text_or_vector_array(values, kind, widths[name], name), name, lengths)
            continue
        elif values.null_count:
            row = np.repeat(np.arange(len(lengths)), lengths)[values.is_null().to_numpy(zero_copy_only=False)][0]
            raise DataError(
                f"'{name}' of user '{batch.column('user_id')[row]}' holds a null: rebuild the table with jobs/build_sequences.py"
            )
        if name == "split":
            values = pc.equal(values, "validation").cast(pa.uint8())
        columns[name] = bytes_column(values.to_numpy().astype(KINDS[kind], copy=False), name, lengths)
    names = [*NAMES, *_binary_columns(kinds)]
    return pa.RecordBatch.from_arrays([*(columns[name] for name in names), batch.column("as_of_ms")], names=[*names, "as_of_ms"])


@contextmanager
def exported(examples: DataFrame, layout: Layout, folder: str, rows_per_group: int, name: str) -> Iterator[str]:
    """The packed rows in Parquet below folder/name: yields that path, and deletes it however the block ends.

    One file of one row group per bucket of about rows_per_group users, by hash of user_id, inside by (hash, user_id, as_of): the
    rows and their order depend neither on partitions nor on the order of the rows. The folder is readable by its owner only, and
    driver and executors must both reach it. What a killed training left under the same name is replaced, so two trainings at
    once need two names. Costs one shuffle of the packed rows and one count. Raises DataError when there is no row.
    """
    with scratch_folder(folder, name) as path:
        rows = examples.count()
        if not rows:
            raise DataError(
                "training_examples has no rows for this as_of and segment: run jobs/build_sequences.py, or choose a later time.as_of"
            )
        place = F.xxhash64("user_id")
        bucketed = packed(examples, layout).withColumn("bucket", F.pmod(place, F.lit(math.ceil(rows / rows_per_group))))
        bucketed = bucketed.toDF(*map(file_column, bucketed.columns))
        # `append` keeps the folder, and so its mode.
        (
            bucketed.repartition("bucket")
            .sortWithinPartitions("bucket", place, "user_id", "as_of_ms")
            .write.mode("append")
            .partitionBy("bucket")
            .options(**WRITING)
            .parquet(for_spark(path))
        )
        make_private(path)
        yield path


def file_column(name: str) -> str:
    """What a column is called in the files: petastorm makes attributes of Python of the names, which `view__content-topic` cannot be."""
    return name if name.isidentifier() and unicodedata.is_normalized("NFKC", name) else f"hex_{name.encode().hex()}"


def for_spark(path: str) -> str:
    """Spark takes a bare path for one of the cluster's default file system; volumes of Unity Catalog are only named that way."""
    return path if path.startswith("/Volumes/") else f"file://{path}"
