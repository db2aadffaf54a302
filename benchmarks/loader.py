"""Does training wait for its data? The petastorm and the pyarrow reader over the same packed rows, and beside the steps of a training.

    python -m benchmarks.loader

The synthetic world (3,000 users, five weeks of sources and labelled impressions), exported as `train_model` exports it. `read` is an
epoch of batches without training: equal ones first, then CPU seconds, the two readers in turn. `train` is one epoch of the user
model in its default width through petastorm; step_wait_share is the share of its wall seconds in which the loop waits for a batch,
decoding included.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from alure_spark.baselines.item_vectors import item_views
from alure_spark.baselines.user_embeddings import collect_histories, item_histories
from alure_spark.batches.batch import JaggedBatch
from alure_spark.batches.epochs import Batches
from alure_spark.batches.vocabulary import Vocabulary
from alure_spark.clock import DAY_MS
from alure_spark.config import load
from alure_spark.lake import as_of_scope, workspace
from alure_spark.packed.loader import Loader
from alure_spark.packed.readers import open_reader
from alure_spark.packed.rows import exported
from alure_spark.running import open_context, run_jobs
from alure_spark.training import start, user_training
from benchmarks import contract
from jobs import pipeline

READERS = ("petastorm", "pyarrow")
WORLD = ["source.options.days=42", "time.as_of=2025-02-06T00:00:00Z", "model.dimension=64", "model.feed_forward=256"]


class Watched:
    """The batches of another loader, and the wall seconds spent waiting for them and working on them."""

    def __init__(self, loader: Loader) -> None:
        self.loader, self.waited, self.worked = loader, 0.0, 0.0

    @property
    def steps(self) -> int:
        return self.loader.steps

    def batches(self, epoch: int, start: int = 0) -> Iterator[JaggedBatch]:
        asked = time.perf_counter()
        for batch in self.loader.batches(epoch, start):
            given = time.perf_counter()
            yield batch
            done = time.perf_counter()
            self.waited += given - asked
            self.worked += done - given
            asked = done

    def in_order(self) -> Iterator[JaggedBatch]:
        return self.loader.in_order()


def require_equal(first: Batches, second: Batches) -> None:
    """Raises AssertionError where two loaders differ in an epoch's users, times or rows."""
    for one, other in zip(first.batches(0), second.batches(0), strict=True):
        assert one.user_ids == other.user_ids, "the readers give other users"
        for source, tokens in one.sources.items():
            theirs = other.sources[source]
            assert torch.equal(tokens.known_at_ms, theirs.known_at_ms), f"the readers give other times of {source}"
            assert all(torch.equal(rows, theirs.rows[name]) for name, rows in tokens.rows.items()), f"other rows of {source}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=3000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--results", type=Path, default=contract.RESULTS)
    options = parser.parse_args(arguments)
    rows: list[contract.Row] = []
    with tempfile.TemporaryDirectory(prefix="loader_") as folder:
        context = open_context(load("conf/test.yml", [*WORLD, f"source.options.users={options.users}", *contract.places(folder)]))
        config = context.config
        run_jobs(context, pipeline.stages("ingest_events", "build_sequences"), "benchmark_loader")
        examples = context.lake.read("training_examples").where(as_of_scope(config.time.as_of_ms))
        known: pd.DataFrame = context.lake.read("vocabularies").toPandas()
        vocabulary = Vocabulary.from_arrays(*(known[name].to_numpy() for name in ("space", "hash", "row")))
        spec, training = start.spec_of(config, vocabulary), config.training
        layout = spec.layout(impressions=True)
        histories = collect_histories(item_histories(examples, spec.item_sources, config.time.as_of_ms), config.embedding)
        views = item_views(histories, config.model.views, config.embedding.dimension, config.embedding.window, config.embedding.seed)
        torch.set_num_threads(1)
        with exported(examples, layout, workspace(config.lake), training.export_rows, "loader") as packed:
            loaders = {kind: Loader(open_reader(kind, packed), layout, vocabulary, training.batch_users, training.seed) for kind in READERS}
            require_equal(*loaders.values())
            rates: dict[str, list[float]] = {kind: [] for kind in READERS}
            waiting = []
            for repetition in range(options.repetitions):
                for kind, loader in loaders.items():
                    row: contract.Row = {"road": f"read {kind}", "users": loader.users}
                    with contract.measured(row):
                        tokens = sum(batch.tokens() for batch in loader.batches(repetition))
                    rates[kind].append(tokens / row["seconds_cpu"])
                    rows.append(row | {"tokens_per_core_second": rates[kind][-1]})
                model = start.new_model(spec, vocabulary, views.items, list(views.vectors), views.idf, views.users)
                watched, row = Watched(loaders["petastorm"]), {"road": "train petastorm", "users": loaders["petastorm"].users}
                when = user_training.calendar(watched.loader, spec.item_sources, config.time.as_of_ms - 2 * DAY_MS, config.time.as_of_ms)
                with contract.measured(row):
                    user_training.train(model, watched, when, replace(training, epochs=1, patience=1))
                waiting.append(watched.waited / (watched.waited + watched.worked))
                rows.append(row | {"waited": watched.waited, "worked": watched.worked})
    ratios = {
        "petastorm_vs_pyarrow": contract.spread([one / other for one, other in zip(*rates.values(), strict=True)]),
        "step_wait_share": contract.spread(waiting),
    }
    size = {"users": options.users, "tokens": tokens, "batch_users": training.batch_users, "world": WORLD}
    contract.publish("loader", size, rows, ratios, options.results)


if __name__ == "__main__":
    main()
