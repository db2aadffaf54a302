"""The last stage of the funnel: `ad_candidates` -> `ranking_scores`, by the ranking model, inside Spark.

Enters: candidates of one as_of, each user's latest sequences, the model. Leaves: per user the candidates by score. A user is one row: its
history is decoded and looked up once for all of its candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from ..arrow import list_column
from ..config import THOMPSON, RankingConfig
from ..ranking.artifact import RankingArtifact
from ..tables import RANKING_SCORES
from .explored_scores import columns_of, requests_of, values_of
from .ranking_rows import ImpressionScorer, read_columns, require_fields, score_columns

USERS_AT_ONCE = 64  # of an Arrow batch: each has up to retrieval.cap candidates, and every table's vectors of them are held at once
_HELD: dict[str, ImpressionScorer] = {}  # of this worker process: the last model's scorer


def scored_candidates(rows: DataFrame, artifact: RankingArtifact, config: RankingConfig) -> DataFrame:
    """Rows of RANKING_SCORES of the candidates (events/candidate_rows.py). Raises as `require_fields`."""
    require_fields(artifact, config, rows.columns)
    model_id = artifact.model_id
    fixed = ["user_id", "country", "as_of", "ads", "accounts", *(name for name in ("_bid", "_value") if name in rows.columns)]

    def score(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        scorer = worker_scorer(artifact)
        for batch in batches:
            yield scored(batch, scorer, config, model_id)

    further = dict.fromkeys(score_columns(artifact.spec).values(), "ARRAY<DOUBLE>")
    if config.exploration.on:
        further |= {"explored": "ARRAY<DOUBLE>"} | columns_of(artifact.spec.binary, "ARRAY<DOUBLE>")
    schema = ", ".join([RANKING_SCORES.ddl(), *(f"{name} {kind}" for name, kind in further.items())])
    return rows.select(*fixed, *read_columns(artifact.spec)).mapInArrow(score, schema)


def worker_scorer(artifact: RankingArtifact) -> ImpressionScorer:
    """The scorer of the model; loaded when this process sees it for the first time."""
    if artifact.digest not in _HELD:
        _HELD.clear()
        _HELD[artifact.digest] = ImpressionScorer(artifact)
    return _HELD[artifact.digest]


def scored(rows: pa.RecordBatch, scorer: ImpressionScorer, ranking: RankingConfig, model_id: str) -> pa.RecordBatch:
    """Rows of RANKING_SCORES, in the order of rows: user_id, country, as_of, ads, accounts, _bid and _value where they count, and what the
    scorer reads."""
    tasks, exploration, network = scorer.spec.tasks, ranking.exploration, scorer.network
    lengths = rows.column("ads").value_lengths().to_numpy()
    user = np.repeat(np.arange(len(lengths)), lengths)
    further: dict[str, np.ndarray] = {}
    if exploration.on:
        predicted, found = scorer.explored(rows, requests_of(rows.column("user_id").take(pa.array(user)), _times(rows)), exploration.seed)
        drawn = predicted.copy()
        drawn[:, network.binary] = found.drawn
        further = {"explored": _worth(rows, ranking, tasks, drawn)}
        further |= dict(zip(columns_of(scorer.spec.binary, ""), values_of(found), strict=True))
    else:
        predicted = scorer.predictions(rows)
    score = _worth(rows, ranking, tasks, predicted)
    ads, decides = rows.column("ads").flatten(), further["explored"] if exploration.policy == THOMPSON else score
    order = np.lexsort((-decides.round(9), user))  # stable: of equal scores the one that retrieval has first
    rank = np.arange(len(order)) - np.repeat(np.r_[0, lengths.cumsum()[:-1]], lengths)
    kept = order[rank < ranking.cap]
    counts = np.minimum(lengths, ranking.cap)
    columns = [rows.column("user_id"), rows.column("country"), rows.column("as_of"), pa.repeat(model_id, rows.num_rows)]
    columns += [list_column(values.take(pa.array(kept)), counts) for values in (ads, rows.column("accounts").flatten())]
    columns += [list_column(pa.array(values[kept]), counts) for values in (score, *predicted.T, *further.values())]
    return pa.RecordBatch.from_arrays(columns, names=[*RANKING_SCORES.column_names, *score_columns(scorer.spec).values(), *further])


def _worth(rows: pa.RecordBatch, ranking: RankingConfig, tasks: Sequence[str], predicted: np.ndarray) -> np.ndarray:
    """(M,) what responses are worth times how likely they are, or a number times the value expected of them: predicted (M, tasks)."""
    score = np.zeros(len(predicted))
    for task, worth in (ranking.score or {tasks[0]: "1"}).items():
        each = float(worth) if worth not in ("bid", "value") else _flat(rows, f"_{worth}")
        score = score + each * predicted[:, tasks.index(task)]
    return score


def _times(rows: pa.RecordBatch) -> np.ndarray:
    """(M,) int64 epoch milliseconds of the candidates."""
    times: np.ndarray = rows.column("time_ms").flatten().to_numpy(zero_copy_only=False)
    return times


def _flat(rows: pa.RecordBatch, name: str) -> np.ndarray:
    """(M,) float64, 0 where it is missing; without the column all 0."""
    if name not in rows.schema.names:
        return np.zeros(1)
    values = rows.column(name).flatten()
    return np.nan_to_num(values.fill_null(0.0).to_numpy(zero_copy_only=False).astype(np.float64))
