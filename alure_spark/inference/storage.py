"""Representations with fewer bits per number, so that a table of them takes less than half of the bytes."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

SMALLEST = 1e-30  # a row of zeros stays one


def with_bits(rows: DataFrame, bits: int) -> DataFrame:
    """The rows with `representation` (array<float>) on a grid of 2 ** bits values; 32 bits: as they are.

    The step of a row's grid is a power of two, so that a file holds few different numbers and Parquet's dictionary takes one byte for each.
    A number moves by at most half a step: 1 / (2 ** (bits - 1) - 1) of the row's largest number.
    """
    if bits == 32:
        return rows
    largest = F.greatest(F.array_max(F.transform("representation", lambda number: F.abs(number))), F.lit(SMALLEST))
    step = F.pow(F.lit(2.0), F.ceil(F.log2(largest / (2 ** (bits - 1) - 1))))

    def nearest(number: Column) -> Column:
        return (F.round(number / F.col("_step")) * F.col("_step")).cast("float")

    return rows.withColumn("_step", step).withColumn("representation", F.transform("representation", nearest)).drop("_step")
