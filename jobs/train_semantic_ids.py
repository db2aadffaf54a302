"""events -> a quantiser of each embedding attribute that `model.semantic_ids` names, in MLflow: train_model reads its codes.

An item has one embedding here: that of its first event. A new version does not touch models that exist: each carries its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pyspark.sql import functions as F

from alure_spark.errors import ConfigError, DataError
from alure_spark.inference import semantic_pyfunc
from alure_spark.lake import JobRun, as_of_scope, make_private, scratch_folder, timestamp, workspace
from alure_spark.model import semantic_ids
from alure_spark.running import Context, Job, Report
from alure_spark.tracking import Columns


def train(context: Context, run: JobRun) -> Report:
    config = context.config
    if not config.model.semantic_ids:
        raise ConfigError("model.semantic_ids is empty: name the embedding attributes to quantise")
    if config.training.threads:
        torch.set_num_threads(config.training.threads)
    report = Report()
    for attribute in config.model.semantic_ids:
        embeddings = _embeddings(context, run, attribute)
        model = semantic_ids.train_semantic_ids(embeddings, config.semantic_ids)
        name, codes = config.semantic_ids_name(attribute), model.encode(embeddings)
        with scratch_folder(workspace(config.lake), f"{name}-{config.digest()}") as scratch:
            folder = semantic_ids.write(model, Path(scratch))
            make_private(scratch)
            digest, tags = semantic_ids.digest(folder), {"alure.as_of": config.time.as_of, "alure.attribute": attribute}
            columns = Columns(semantic_pyfunc.REQUIRED, (), semantic_pyfunc.OUTPUTS)
            version = context.tracker.log_model(name, folder, semantic_pyfunc.__name__, digest, tags, columns)
        context.tracker.promote(name, version)
        run.content_hashes[name] = digest[:16]
        error = semantic_ids.reconstruction_error(embeddings, model.decode(codes))
        found: dict[str, float | None] = {"items": len(embeddings), "reconstruction_error": error}
        for level, one in enumerate(semantic_ids.usage(codes, config.semantic_ids.codes)):
            found |= {f"level_{level + 1}.used": one.used, f"level_{level + 1}.perplexity": one.perplexity}
        report.metrics |= {f"{attribute}.{key}": value for key, value in found.items()}
        lines = [f"{name} version {version}", *(f"{key} {value:.4g}" for key, value in found.items() if value is not None)]
        report.texts[f"train_semantic_ids/{attribute}.txt"] = "\n".join(lines)
    return report


def _embeddings(context: Context, run: JobRun, attribute: str) -> torch.Tensor:
    """(items, D) float32 of what was known before as_of, items in order of their hash's hash."""
    config, width = context.config, context.config.model.embedding_dimensions[attribute]
    known = run.read("events").where((F.col("known_at") < timestamp(config.time.as_of_ms)) & F.col(attribute).isNotNull())
    first = F.min(F.struct("known_at", "event_hash", F.col(attribute).alias("embedding")))["embedding"]
    items = known.groupBy("item_hash").agg(first.alias("embedding"))
    rows: pd.DataFrame = items.orderBy(F.xxhash64("item_hash"), "item_hash").limit(config.semantic_ids.sample).toPandas()
    if not len(rows):
        raise DataError(f"no event before time.as_of has a {attribute}: there is nothing to quantise")
    other = [len(vector) for vector in rows["embedding"] if len(vector) != width]
    if other:
        raise DataError(f"{attribute} has {other[0]} numbers in an event; model.embedding_dimensions says {width}")
    return torch.from_numpy(np.stack(rows["embedding"].to_list()).astype(np.float32))


JOB = Job(
    "train_semantic_ids",
    "a residual-quantised autoencoder of each embedding attribute that is read as codes, and its place in the registry",
    ("events",),
    (),
    lambda config: as_of_scope(config.time.as_of_ms),
    train,
)

if __name__ == "__main__":
    JOB.main()
