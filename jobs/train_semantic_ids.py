"""events -> a quantiser of each embedding attribute that `model.semantic_ids` names, in MLflow: train_model reads its codes.

An item has one embedding here: that of its first event. A new version does not touch models that exist: each carries its own.
"""

from __future__ import annotations

import torch

from alure_spark.errors import ConfigError
from alure_spark.inference.registered import register_quantizer
from alure_spark.lake import JobRun, as_of_scope
from alure_spark.model import semantic_ids
from alure_spark.running import Context, Job, Report
from alure_spark.training.item_embeddings import item_embeddings
from alure_spark.training.semantic_ids import train_semantic_ids


def train(context: Context, run: JobRun) -> Report:
    config = context.config
    if not config.model.semantic_ids:
        raise ConfigError("model.semantic_ids is empty: name the embedding attributes to quantise")
    if config.training.threads:
        torch.set_num_threads(config.training.threads)
    report = Report()
    for attribute in config.model.semantic_ids:
        embeddings = item_embeddings(run.read("events"), config, attribute)
        model = train_semantic_ids(embeddings, config.semantic_ids)
        name, codes = config.semantic_ids_name(attribute), model.encode(embeddings)
        version, digest = register_quantizer(config, context.tracker, attribute, model)
        run.content_hashes[name] = digest[:16]
        error = semantic_ids.reconstruction_error(embeddings, model.decode(codes))
        found: dict[str, float | None] = {"items": len(embeddings), "reconstruction_error": error}
        for level, one in enumerate(semantic_ids.usage(codes, config.semantic_ids.codes)):
            found |= {f"level_{level + 1}.used": one.used, f"level_{level + 1}.perplexity": one.perplexity}
        report.metrics |= {f"{attribute}.{key}": value for key, value in found.items()}
        lines = [f"{name} version {version}", *(f"{key} {value:.4g}" for key, value in found.items() if value is not None)]
        report.texts[f"train_semantic_ids/{attribute}.txt"] = "\n".join(lines)
    return report


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
