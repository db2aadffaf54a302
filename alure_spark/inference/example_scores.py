"""A ready-made table of impressions -> `impression_scores`, by the ranking model, inside Spark.

Enters: rows of `impression_examples`, the model. Leaves: the same rows with the probability, or expected value, of each task.
A batch of rows is scored as one user: without histories an impression says itself all that is known of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from ..arrow import list_column
from ..config import ExplorationConfig, RankingConfig
from ..ranking.artifact import RankingArtifact
from ..tables import IMPRESSION_SCORES
from .candidate_scores import worker_scorer
from .explored_scores import columns_of, requests_of, values_of
from .ranking_rows import ImpressionScorer, require_fields, score_columns

ROWS_AT_ONCE = 8192  # of an Arrow batch


def scored_examples(rows: DataFrame, artifact: RankingArtifact, config: RankingConfig) -> DataFrame:
    """Rows of IMPRESSION_SCORES. rows: events/mapped_impressions.rows_to_score. Raises as `require_fields`."""
    require_fields(artifact, config, rows.columns)
    tasks, model_id = artifact.spec.tasks, artifact.model_id

    def score(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        scorer = worker_scorer(artifact)
        for batch in batches:
            yield scored(batch, scorer, config.exploration, model_id)

    further = {task: "DOUBLE" if task in artifact.spec.values else "INT" for task in tasks}
    further |= dict.fromkeys(score_columns(artifact.spec).values(), "DOUBLE")
    further |= columns_of(artifact.spec.binary, "DOUBLE") if config.exploration.on else {}
    schema = ", ".join([IMPRESSION_SCORES.ddl(), *(f"{name} {kind}" for name, kind in further.items())])
    return rows.mapInArrow(score, schema)


def scored(rows: pa.RecordBatch, scorer: ImpressionScorer, exploration: ExplorationConfig, model_id: str) -> pa.RecordBatch:
    """Rows of IMPRESSION_SCORES, in the order of rows."""
    count, tasks = np.array([rows.num_rows]), scorer.spec.tasks
    columns = {"user_id": pa.array([""]), "time_ms": list_column(np.zeros(rows.num_rows, np.int64), count)}
    for name in rows.schema.names:
        if name.startswith("impression__"):
            columns[name] = list_column(rows.column(name), count)
    given, further = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns)), dict[str, np.ndarray]()
    if exploration.on:
        shown_ms = rows.column("event_time").cast(pa.timestamp("ms", "UTC"), safe=False).cast(pa.int64()).to_numpy(zero_copy_only=False)
        predicted, found = scorer.explored(given, requests_of(rows.column("user_id"), shown_ms), exploration.seed)
        further = dict(zip(columns_of(scorer.spec.binary, ""), values_of(found), strict=True))
    else:
        predicted = scorer.predictions(given)
    kept = {name: rows.column(name) for name in ("user_id", "event_time", "ad_id", "split", "as_of")}
    kept |= {"model_id": pa.repeat(model_id, rows.num_rows)} | {task: rows.column(task) for task in tasks}
    kept |= {name: pa.array(predicted[:, column]) for column, name in enumerate(score_columns(scorer.spec).values())}
    kept |= {name: pa.array(values) for name, values in further.items()}
    return pa.RecordBatch.from_arrays(list(kept.values()), names=list(kept))
