"""Cross representations of another layer of the user model than the published one, beside the lake: for comparison, never published.

Enters: `training_examples` of as_of, the model that published rows are of, the days that these are as of. Leaves: a frame shaped as
CROSS_REPRESENTATIONS, as of the same days and of what was known before them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..clock import DAY_MS
from ..config import Config
from ..errors import DataError
from ..inference.cross_table import cross_sums, decaying_means, window_ends
from ..lake import JobRun, as_of_scope
from ..model.artifact import Artifact
from ..session import session_settings

Stored = Callable[[DataFrame, str], DataFrame]  # (frame, name) -> the same rows, computed once


def published_days(run: JobRun, config: Config, artifact: Artifact) -> list[int]:
    """The as_ofs up to that of the conf, epoch ms, that have cross representations of the model and the conf's layer, oldest first.

    Raises DataError where there are none.
    """
    mine = (F.col("model_id") == artifact.model_id) & (F.col("layer") == config.transfer.layer)
    rows = run.read("cross_representations").where(mine)
    days = sorted(row["ms"] for row in rows.select(F.unix_millis("as_of").alias("ms")).distinct().collect())
    days = [day for day in days if day <= config.time.as_of_ms]
    if not days:
        raise DataError(
            f"cross_representations has no rows of {artifact.model_id}, layer {config.transfer.layer}, up to {config.time.as_of}: run "
            "jobs/extract_representations.py"
        )
    return days


def layer_representations(run: JobRun, config: Config, artifact: Artifact, layer: str, stored: Stored) -> DataFrame:
    """Rows as of every published day, of that layer. Reads each impression of their windows through the model once."""
    examples = run.read("training_examples").where(as_of_scope(config.time.as_of_ms))
    days, means = published_days(run, config, artifact), []
    batches = {"spark.sql.execution.arrow.maxRecordsPerBatch": str(config.inference.batch_users)}
    with session_settings(run.lake.spark, batches):
        for number, time_of_day in enumerate(sorted({day % DAY_MS for day in days})):  # the ends of days of one sum are whole days apart
            mine = [day for day in days if day % DAY_MS == time_of_day]
            ends = sorted({end for day in mine for end in window_ends(config.transfer, day)}, reverse=True)
            sums = stored(cross_sums(examples, artifact, config.inference, layer, ends), f"sums-{layer}-{number}")
            means += [decaying_means(sums, config.transfer, day) for day in mine]
        return stored(reduce(DataFrame.unionByName, means), f"cross-{layer}")
