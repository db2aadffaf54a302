"""What a trained user model says at every impression of a log: shared by the benchmarks that evaluate it as a ranker's feature.

Enters: a lake that the pipeline filled, and its champion. Leaves: arrays, one row per impression. The embedding of an impression
is the one that a job, run at every so many midnights, had published before it: at least embedding.publish_lag_hours after its as_of
(ALURE, section 2.4, embedding logging). Everything else is read at the impression itself, from what was known strictly before it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch

from alure_spark.clock import DAY_MS
from alure_spark.events.examples import training_examples
from alure_spark.inference.registered import champion
from alure_spark.lake import workspace
from alure_spark.packed.loader import Loader
from alure_spark.packed.readers import open_reader
from alure_spark.packed.rows import exported
from alure_spark.running import Context


@dataclass(frozen=True)
class ImpressionReads:
    """n impressions, users one after the other, by time."""

    user_id: np.ndarray  # (n,) object
    impression_id: np.ndarray  # (n,) object
    time_ms: np.ndarray  # (n,) int64
    account: np.ndarray  # (n,) int64 rows of the vocabulary
    labels: np.ndarray  # (n, T) float64 of each task that the model predicts, in its order
    probabilities: np.ndarray  # (n, T) float64 of the same, calibrated
    embeddings: np.ndarray  # (n, D) float32, zeros where nothing was known at the publication
    facts: np.ndarray  # (n, F) float64: counts, recency and attributes that any ranker has (alure_spark/model/readout.py)

    def select(self, rows: np.ndarray) -> ImpressionReads:
        """The impressions of a mask or of row numbers."""
        return ImpressionReads(*(getattr(self, item.name)[rows] for item in fields(self)))


def read_impressions(context: Context, end_ms: int, refresh_days: int = 1) -> ImpressionReads:
    """Every impression known before end_ms; labels as they stand at end_ms; embeddings refreshed every so many days."""
    period = refresh_days * DAY_MS
    config = context.config
    model, vocabulary = champion(config, context.tracker).model()
    layout = model.spec.layout(impressions=True)
    events = context.lake.read("events")
    examples = training_examples(events, config.streams, config.labels, end_ms, config.impression_attributes).where(
        "size(impression_id) > 0"
    ).persist()  # fmt: skip
    names = {row["user_id"]: row["impression_id"] for row in examples.select("user_id", "impression_id").collect()}
    parts: list[tuple[np.ndarray, ...]] = []
    with exported(examples, layout, workspace(config.lake), config.training.export_rows, f"{config.name}-impressions") as folder:
        loader = Loader(open_reader("pyarrow", folder), layout, vocabulary, config.training.batch_users, config.training.seed)
        for batch in loader.in_order():
            shown = batch.impressions
            assert shown is not None
            with torch.inference_mode():
                states = model.encoder.states(batch)
                published = (shown.time_ms - config.embedding.publish_lag_ms).div(period, rounding_mode="floor") * period
                embeddings = model.encoder.embed_at(batch, states, shown.users(), published)
                probabilities = model.readout.probabilities(model.readout(batch, states, model.encoder))
                facts = model.readout.facts(batch)
            users = np.array(batch.user_ids, object)[shown.users().numpy()]
            ids = np.array([name for user in batch.user_ids for name in names[user]], object)
            labels = torch.stack([shown.labels[task].double() for task in model.spec.tasks], dim=1)
            tensors = (shown.time_ms, shown.rows["account_id"], labels)
            parts.append((users, ids, *(one.numpy() for one in (*tensors, probabilities.double(), embeddings, facts.double()))))
    examples.unpersist()
    return ImpressionReads(*(np.concatenate(column) for column in zip(*parts, strict=True)))
