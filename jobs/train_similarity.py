"""events -> similarity_embeddings at one as_of: users and items by GraphSAGE on the graph of clicks, for a ranking model to compare.

Nothing is registered: the vectors are the result, and each as_of has a model of its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from alure_spark.lake import JobRun, as_of_scope, workspace
from alure_spark.plots import curves
from alure_spark.running import Context, Job, Report
from alure_spark.training.click_graph import collect_graph, embedding_rows
from alure_spark.training.graph_sage import model_id, share_in_order, train_graph_sage


def train(context: Context, run: JobRun) -> Report:
    config, as_of = context.config, context.config.time.as_of_ms
    if config.training.threads:
        torch.set_num_threads(config.training.threads)
    named = collect_graph(run.read("events"), config.similarity_sources, config.similarity, as_of)
    graph = named.graph
    name = f"{config.name}-similarity-v{run.inputs['events']}-{config.digest()}"
    checkpoint = Path(workspace(config.lake)) / f"{name}.checkpoint"
    model, fitted = train_graph_sage(graph, config.similarity, checkpoint)
    embeddings, its_id = model.embeddings(), model_id(model, config.similarity)
    rows = context.spark.createDataFrame(embedding_rows(named, embeddings, its_id, as_of))
    run.write("similarity_embeddings", rows, as_of_scope(as_of))
    checkpoint.unlink(missing_ok=True)
    context.tracker.set_tag("alure.similarity_model_id", its_id)
    metrics: dict[str, float | None] = {"users": graph.users, "items": graph.items, "edges": len(graph.edges), "steps": fitted.steps}
    metrics |= {"held_out": len(graph.held_out), "share_in_order": share_in_order(graph, embeddings, config.similarity.seed)}
    lines = {}
    for split in ("train", "validation") if len(graph.held_out) else ("train",):
        losses = np.array([row[f"{split}.similarity"] for row in fitted.curves])
        lines[split] = np.arange(1, len(losses) + 1), losses
        metrics[f"{split}_loss"] = float(losses[fitted.best_epoch])  # of the last one, -1, where none was validated
    figure = curves(lines, "epoch", "nats per edge")
    text = "\n".join([its_id, *(f"{key} {value:.6g}" for key, value in metrics.items() if value is not None)])
    return Report(metrics, {"train_similarity/losses.png": figure}, {"train_similarity/summary.txt": text})


JOB = Job(
    "train_similarity",
    "an embedding of each user and item of the click graph, by GraphSAGE without labels",
    ("events",),
    ("similarity_embeddings",),
    lambda config: as_of_scope(config.time.as_of_ms),
    train,
)

if __name__ == "__main__":
    JOB.main()
