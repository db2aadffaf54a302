"""The last stage of the funnel: `ad_candidates` -> `ranking_scores`, by the ranking model, inside Spark.

Enters: candidates of one as_of, each user's latest sequences, the model. Leaves: per user the candidates by score. A user is one row: its
history is decoded and looked up once for all of its candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..arrow import list_column
from ..config import Config, RankingConfig
from ..errors import ConfigError
from ..events.clean import id_hash
from ..events.ranking_fields import FieldTables, ranking_rows, with_flights
from ..lake import timestamp
from ..ranking.artifact import RankingArtifact
from ..tables import ATTRIBUTE_TYPES, RANKING_SCORES
from .ranking_rows import ImpressionScorer

USERS_AT_ONCE = 64  # of an Arrow batch: each has up to retrieval.cap candidates, and every table's vectors of them are held at once
_HELD: dict[str, ImpressionScorer] = {}  # of this worker process: the last model's scorer


def candidate_rows(candidates: DataFrame, sequences: DataFrame, config: Config) -> DataFrame:
    """Candidates in the shape of TRAINING_EXAMPLES: shown at as_of, with raw ids in `ads` and `accounts` and the user's arrays.

    candidates: AD_CANDIDATES of as_of; sequences: each user's latest row. Raises ConfigError where a field reads an attribute of the
    impression for which ranking.serving has no value.
    """
    attributes, as_of = config.impression_attributes, config.time.as_of_ms
    columns = {}
    for name, one in config.ranking.fields.items():
        if one.origin != "impression" or one.name in ("ad_id", "account_id"):
            continue
        if one.name not in config.ranking.serving:
            raise ConfigError(
                f"ranking.fields.{name} reads impression.{one.name}, which a candidate does not have yet: say what it is scored with in "
                f"ranking.serving.{one.name}"
            )
        value = F.lit(config.ranking.serving[one.name])
        kind = attributes[one.name]
        typed = id_hash(value.cast("string")) if kind == "categorical" else value.cast(ATTRIBUTE_TYPES[kind][1])
        columns[f"impression__{one.name}"] = F.transform("ads", lambda ad, typed=typed: typed)  # type: ignore[misc]
    shown = candidates.where(F.size("ad_id") > 0).select(
        "user_id", "country", F.lit("").alias("segment"), timestamp(as_of).alias("as_of"),
        F.col("ad_id").alias("ads"), F.col("account_id").alias("accounts"),
        F.transform("ad_id", lambda ad: F.lit(as_of)).alias("time_ms"),
        F.transform("ad_id", lambda ad: F.xxhash64(ad)).alias("ad_id"),
        F.transform("account_id", lambda account: F.xxhash64(account)).alias("account_id"),
    )  # fmt: skip
    arrays = [name for name in sequences.columns if "__" in name]
    return shown.withColumns(columns).join(sequences.select("user_id", *arrays), "user_id", "left")


def scored_candidates(
    candidates: DataFrame,
    sequences: DataFrame,
    tables: FieldTables,
    artifact: RankingArtifact,
    config: Config,
) -> DataFrame:
    """Rows of RANKING_SCORES at as_of. Embeddings of as_of itself are read, too: scores are published after them."""
    rows = ranking_rows(candidate_rows(candidates, sequences, config), config.ranking, tables, publish_lag_ms=-1)
    worth = {name for name in config.ranking.score.values() if name in ("bid", "value")}
    if tables.ads is not None and worth:
        rows = with_flights(rows, tables.ads, {f"_{name}": F.coalesce(F.col(name), F.lit(0.0)) for name in sorted(worth)})
    tasks, ranking, model_id = artifact.spec.tasks, config.ranking, artifact.model_id
    layout = artifact.spec.layout()
    read = ["time_ms", *(name for name in layout.impression_columns() if name.startswith("impression__")), *layout.columns()]
    fixed = ["user_id", "country", "as_of", "ads", "accounts", *(f"_{name}" for name in sorted(worth))]

    def score(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        scorer = worker_scorer(artifact)
        for batch in batches:
            yield scored(batch, scorer, ranking, model_id)

    schema = ", ".join([RANKING_SCORES.ddl(), *(f"p_{task} ARRAY<DOUBLE>" for task in tasks)])
    return rows.select(*fixed, *read).mapInArrow(score, schema)


def worker_scorer(artifact: RankingArtifact) -> ImpressionScorer:
    """The scorer of the model; loaded when this process sees it for the first time."""
    if artifact.digest not in _HELD:
        _HELD.clear()
        _HELD[artifact.digest] = ImpressionScorer(artifact)
    return _HELD[artifact.digest]


def scored(rows: pa.RecordBatch, scorer: ImpressionScorer, ranking: RankingConfig, model_id: str) -> pa.RecordBatch:
    """Rows of RANKING_SCORES, in the order of rows: user_id, country, as_of, ads, accounts, _bid and _value where they count, and what the
    scorer reads."""
    p, tasks = scorer.probabilities(rows), scorer.spec.tasks
    lengths = rows.column("ads").value_lengths().to_numpy()
    user = np.repeat(np.arange(len(lengths)), lengths)
    score = np.zeros(len(p))
    for task, worth in (ranking.score or {tasks[0]: "1"}).items():
        each = float(worth) if worth not in ("bid", "value") else _flat(rows, f"_{worth}")
        score = score + each * p[:, tasks.index(task)]
    ads = rows.column("ads").flatten()
    order = np.lexsort((-score.round(9), user))  # stable: of equal scores the one that retrieval has first
    rank = np.arange(len(order)) - np.repeat(np.r_[0, lengths.cumsum()[:-1]], lengths)
    kept = order[rank < ranking.cap]
    counts = np.minimum(lengths, ranking.cap)
    columns = [rows.column("user_id"), rows.column("country"), rows.column("as_of"), pa.repeat(model_id, rows.num_rows)]
    columns += [list_column(values.take(pa.array(kept)), counts) for values in (ads, rows.column("accounts").flatten())]
    columns += [list_column(pa.array(values[kept]), counts) for values in (score, *p.T)]
    return pa.RecordBatch.from_arrays(columns, names=[*RANKING_SCORES.column_names, *(f"p_{task}" for task in tasks)])


def _flat(rows: pa.RecordBatch, name: str) -> np.ndarray:
    """(M,) float64, 0 where it is missing; without the column all 0."""
    if name not in rows.schema.names:
        return np.zeros(1)
    values = rows.column(name).flatten()
    return np.nan_to_num(values.fill_null(0.0).to_numpy(zero_copy_only=False).astype(np.float64))
