"""training_examples, user vectors, item_representations -> the head of standalone retrieval in MLflow (LFM4Ads, model level).

It maps a user's vector (transfer.retrieval.reads) to the space of the ads' vectors, which stay as they are, and learns from engagements
with the vectors that were published before the impression. Of too few engagements no head is trained: jobs.retrieve_ads does without.
"""

from __future__ import annotations

import torch

from alure_spark.errors import ConfigError
from alure_spark.events.standalone_rows import ads_of_day, engaged_rows, upstream_model
from alure_spark.inference.registered import register_head
from alure_spark.lake import JobRun, as_of_scope
from alure_spark.model.retrieval_head import HeadArtifact
from alure_spark.running import Context, Job, Report
from alure_spark.training.retrieval_head import collected, head_metrics, train_head


def train(context: Context, run: JobRun) -> Report:
    config, settings = context.config, context.config.transfer.retrieval
    if not settings.head:
        raise ConfigError("transfer.retrieval.head is empty: say linear or two_layers")
    if config.training.threads:
        torch.set_num_threads(config.training.threads)
    upstream = upstream_model(run, config)
    engagements, catalogue = collected(engaged_rows(run, config, upstream), ads_of_day(run, config))
    count = len(engagements.ad)
    if count < settings.min_examples:
        said = (
            f"{count} impressions with a {settings.task} were shown after vectors of {upstream} were published; a head is trained from "
            f"{settings.min_examples} on (transfer.retrieval.min_examples)"
        )
        return Report({"engagements": count}, texts={"train_retrieval/summary.txt": said})
    head, fitted = train_head(engagements, catalogue, settings)
    metrics = head_metrics(head, fitted, engagements, catalogue, settings)
    facts = {"as_of_ms": config.time.as_of_ms, "task": settings.task, "config_hash": config.digest()}
    artifact = HeadArtifact.of(head, settings.reads, upstream, facts)
    said = register_head(config, context.tracker, artifact)
    run.content_hashes["retrieval_head"] = artifact.digest[:16]
    text = "\n".join([said, *(f"{name} {value:.6g}" for name, value in metrics.items() if value is not None)])
    return Report(metrics, texts={"train_retrieval/summary.txt": text})


JOB = Job(
    "train_retrieval",
    "a head on the user's vector that finds ads by their frozen vectors, and its place in the registry",
    ("training_examples", "ads", "item_representations", "user_embeddings", "cross_representations"),
    (),
    lambda config: as_of_scope(config.time.as_of_ms),
    train,
)

if __name__ == "__main__":
    JOB.main()
