"""What are the user embedding and the similarity worth as fields of the ranking model? NE with the field against NE without it.

    python -m benchmarks.ranking_fields

The chain runs as it would day after day. The user model is trained once, up to `first`. From then on its embeddings, and GraphSAGE's
vectors of that day, are published every few days, and each impression reads what was published before it (user.embedding, user.similarity).
The ranking model is trained on the impressions between `first` and `cut`, with labels as they were known at the cut, and evaluated on
those after it. All models of a set see the same rows, have as many parameters, and have the best of the same learning rates, by the
loss on the last labels.validation_days before the cut. `histories`: the fields of the conf; `no histories`: without what it reads of the
user's past.
The twin `another user's embedding` gives each user the first embedding of another one: it still tells users apart, and nothing else.
"As it is given" is the user's own without the mean and the deviation that the encoding `numbers` takes off: an embedding of unit norm has
small numbers. In the set `null` nothing prefers anything, so that a gain would be a fault.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from pyspark.sql import functions as F
from torch import Tensor

from alure_spark.batches.batch import JaggedBatch
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.batches.vocabulary import Vocabulary
from alure_spark.clock import DAY_MS, format_time, parse_time
from alure_spark.config import RankingConfig, load
from alure_spark.events.ranking_tables import embedding_model, training_rows
from alure_spark.lake import JobRun, workspace
from alure_spark.metrics import cluster_bootstrap, normalized_entropy
from alure_spark.packed.segments import segment_loaders
from alure_spark.ranking.spec import RankingSpec
from alure_spark.running import Context, open_context, run_jobs
from alure_spark.training import ranking_model, ranking_start
from benchmarks import contract
from benchmarks.ranking_parts import cross_entropies, equalized, parameters
from jobs import build_sequences, embed_users, pipeline, train_similarity

SEEDS = (17, 18, 19)  # of the ranking model
RATES = (1e-3, 4e-3, 1.6e-2)
EMBEDDING, SIMILARITY, OTHERS = "user.embedding", "user.similarity", "another user's embedding"
RAW = "user.embedding, as it is given"
ADDED = {  # settings of the fields that are compared
    EMBEDDING: ["ranking.fields.taste.reads=user.embedding", "ranking.fields.taste.encoding=numbers"],
    SIMILARITY: [
        "ranking.fields.near.reads=user.similarity", "ranking.fields.near.encoding=numeral_systems", "ranking.fields.near.interacts=false",
    ],
}  # fmt: skip
ITS = {EMBEDDING: "taste", RAW: "taste", SIMILARITY: "near", OTHERS: "taste"}  # what is compared -> its field
WORLD = [
    "source.options.users=1500", "source.options.days=28", "source.options.seed=11", "training.epochs=4", "inference.precision=float32",
    "labels.validation_days=2", "ranking.epochs=10", "ranking.patience=3", "ranking.batch_users=128",
]  # fmt: skip
COUPONS = [
    "labels.validation_days=60", "ranking.patience=4", "ranking.batch_users=128",
    *(f"ranking.fields.campaign_{name}.reads=impression.campaign_{name}" for name in ("type", "days", "products")),
    "ranking.fields.campaign_type.encoding=id", *(f"ranking.fields.campaign_{name}.encoding=standardized" for name in ("days", "products")),
]  # fmt: skip


@dataclass(frozen=True)
class Chain:
    """A log, and the times at which jobs run."""

    conf: str
    settings: Sequence[str]
    first: str  # the user model is trained up to here
    cut: str  # the ranking model is trained up to here
    end: str  # the last impression to evaluate is before it
    known: str  # labels of these are as known here
    every_days: int  # how often embeddings are published
    compared: Sequence[str] = (EMBEDDING, RAW, OTHERS, SIMILARITY)
    bases: Sequence[str] = ("histories",)

    def publications(self) -> list[int]:
        """The as_of of each, epoch milliseconds."""
        return list(range(parse_time(self.first), parse_time(self.end), self.every_days * DAY_MS))


OF_WORLD = {"first": "2025-01-20", "cut": "2025-01-29", "end": "2025-02-01", "known": "2025-02-03", "every_days": 6}
SETS: dict[str, Chain] = {
    "synthetic": Chain("conf/test.yml", WORLD, **OF_WORLD, bases=("histories", "no histories")),  # type: ignore[arg-type]
    "null": Chain("conf/test.yml", [*WORLD, "source.options.null=true"], **OF_WORLD),  # type: ignore[arg-type]
    # A send is a booklet that nobody has clicked before: it is not in the graph, so that there is no similarity.
    "completejourney": Chain(
        "conf/demo.yml", COUPONS, "2017-05-30", "2017-10-30", "2017-12-29", "2018-01-02", 30, compared=(EMBEDDING, RAW, OTHERS)
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Logged:
    """Impressions with their fields as they were published, of all users of a chain."""

    draft: RankingSpec  # with all fields, its encodings not fitted
    vocabulary: Vocabulary
    learnt: JaggedBatch  # impressions before the cut, the last ones marked as validation
    tested: JaggedBatch  # those after it, all marked
    served: Mapping[str, float]  # field -> share of the tested impressions that have a value
    config: RankingConfig  # how a model is trained


@dataclass
class Results:
    """Of one model, per seed."""

    rate: float = 0.0
    parameters: int = 0
    probabilities: list[np.ndarray] = field(default_factory=list)  # (M, tasks) float64
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (M, tasks)
    users: np.ndarray = field(default_factory=lambda: np.zeros(0, object))  # (M,)


def context_at(chain: Chain, folder: str, as_of: int, *more: str) -> Context:
    """A context of the chain's conf at as_of, epoch milliseconds, with the fields that are compared, inside the folder."""
    added = [setting for name in chain.compared if name in ADDED for setting in ADDED[name]]
    settings = [*chain.settings, *added, *contract.places(folder), f"time.as_of={format_time(as_of)}", *more]
    return open_context(load(chain.conf, settings))


def publish(chain: Chain, folder: str) -> None:
    """The user model once; then embeddings, and vectors of the graph, every few days."""
    first = parse_time(chain.first)
    run_jobs(context_at(chain, folder, first), pipeline.stages("ingest_events", "train_model"), "benchmark_ranking_fields")
    made = [embed_users.JOB, *([train_similarity.JOB] if SIMILARITY in chain.compared else [])]
    for as_of in chain.publications():
        jobs = [*([build_sequences.JOB] if as_of > first else []), *made]
        run_jobs(context_at(chain, folder, as_of), jobs, "benchmark_ranking_fields")


def logged(chain: Chain, folder: str) -> Logged:
    """Fields as jobs/train_ranking.py reads them, from the lake that `publish` has filled."""
    first, cut, end, known = map(parse_time, (chain.first, chain.cut, chain.end, chain.known))
    # Impressions of the day after `first` have no embedding yet: the rows of all models begin where all fields can be read.
    learning = context_at(chain, folder, cut, f"labels.days={(cut - first) // DAY_MS - 1}")
    evaluating = context_at(chain, folder, known, f"labels.days={(known - cut) // DAY_MS}")
    draft = ranking_start.draft_spec(learning.config)
    vocabulary, learnt = _batch(learning, draft, None)
    _, tested = _batch(evaluating, draft, vocabulary)
    shown = tested.impressions
    assert shown is not None
    shown = shown.select((shown.time_ms >= cut) & (shown.time_ms < end))
    tested = replace(tested, impressions=replace(shown, validation=torch.ones(len(shown.time_ms), dtype=torch.bool)))
    served = {ITS[name]: _served(ranking_model.value_of(draft, tested, ITS[name])) for name in chain.compared}
    return Logged(draft, vocabulary, learnt, tested, served, learning.config.ranking)


def _served(values: Tensor) -> float:
    missing = values.isnan()
    return float(1 - (missing.any(dim=1) if missing.ndim > 1 else missing).double().mean())


def _batch(context: Context, draft: RankingSpec, vocabulary: Vocabulary | None) -> tuple[Vocabulary, JaggedBatch]:
    """(The vocabulary, fitted where none is given; the training rows of as_of as one batch of all users)."""
    run_jobs(context, [build_sequences.JOB], "benchmark_ranking_fields")
    config, run = context.config, JobRun(context.lake, "benchmark_ranking_fields", "", "true")
    rows = training_rows(run, config, embedding_model(run, config)).where(F.size("time_ms") > 0)
    vocabulary = vocabulary or ranking_start.fitted_vocabulary(rows, config)
    training = replace(config.training, batch_users=1_000_000)
    name = f"ranking_fields_{config.time.as_of_ms}"
    with segment_loaders(rows, draft.layout(), vocabulary, training, workspace(config.lake), name) as packed:
        (batch,) = packed.decoding(draft, vocabulary).in_order()
    return vocabulary, batch


def of_another(batches: Sequence[JaggedBatch], name: str, seed: int) -> list[JaggedBatch]:
    """The batches, where each user has the first embedding of another one, always the same; of a user without any, none."""
    first: dict[str, Tensor] = {}
    for batch in batches:
        for user, values in zip(*_of_impressions(batch, name), strict=True):
            if not bool(values.isnan().any()):
                first.setdefault(user, values)
    everybody = sorted({user for batch in batches for user in batch.user_ids})
    drawn = np.random.default_rng(seed).permutation(np.array(everybody, object))
    donors = dict(zip(drawn, np.roll(drawn, 1), strict=True))
    changed = []
    for batch in batches:
        users, values = _of_impressions(batch, name)
        nothing = torch.full_like(values[0], float("nan"))
        given = torch.stack([first.get(donors[user], nothing) for user in users])
        assert batch.impressions is not None
        changed.append(replace(batch, impressions=replace(batch.impressions, vectors={**batch.impressions.vectors, name: given})))
    return changed


def as_given(spec: RankingSpec, name: str) -> RankingSpec:
    """The spec that takes the embedding as it is given, as models did before there were means of embeddings."""
    one = spec.fields[name]
    return replace(spec, fields={**spec.fields, name: replace(one, settings={"numbers": one.width})})


def _of_impressions(batch: JaggedBatch, name: str) -> tuple[np.ndarray, Tensor]:
    """(M,) the user of each impression, and (M, numbers) what it has of the field."""
    assert batch.impressions is not None
    return np.array(batch.user_ids, object)[batch.impressions.users().numpy()], batch.impressions.vectors[name]


def spec_of(draft: RankingSpec, base: str, added: str) -> RankingSpec:
    """The draft with those fields of ADDED only that are compared, and in the base without histories without all that is of the past."""
    fields = {name: one for name, one in draft.fields.items() if name not in ITS.values() or name == ITS.get(added)}
    if base == "histories":
        return replace(draft, fields=fields)
    return replace(draft, fields={name: one for name, one in fields.items() if not one.history}, sequences={})


def measured(name: str, chain: Chain, given: Logged, seeds: Sequence[int], resamples: int) -> list[contract.Row]:
    """A row per base, field and task."""
    rows: list[contract.Row] = []
    for base in chain.bases:
        loader = MemoryLoader(given.learnt, given.config.batch_users, 0)
        drafts = {added: spec_of(given.draft, base, added) for added in ("", *chain.compared)}
        fitted = {added: ranking_model.fitted_spec(spec, loader, given.vocabulary) for added, spec in drafts.items()}
        fitted = {added: as_given(spec, ITS[RAW]) if added == RAW else spec for added, spec in fitted.items()}
        results = {added: _trained(given, spec, added, seeds) for added, spec in equalized(fitted).items()}
        for added in chain.compared:
            of = {"set": name, "base": base, "field": added, "served": given.served[ITS[added]]}
            rows += [of | row for row in _compared(results[added], results[""], given.draft.tasks, resamples)]
    return rows


def _trained(given: Logged, spec: RankingSpec, added: str, seeds: Sequence[int]) -> Results:
    """The model of each seed on the tested impressions; its learning rate is the best of the first seed."""
    learnt, tested = given.learnt, given.tested
    if added == OTHERS:
        learnt, tested = of_another([learnt, tested], ITS[OTHERS], 1)
    results = Results(parameters=parameters(spec))
    for seed in seeds:
        tried: list[tuple[float, float, Any]] = []
        for rate in [results.rate] if results.rate else RATES:
            loader = MemoryLoader(learnt, given.config.batch_users, seed)
            network = ranking_model.new_network(spec, loader, seed)
            model = ranking_model.train(network, loader, replace(given.config, learning_rate=rate, seed=seed))
            tried.append((sum(model.validation.losses.values()), rate, model.network))
        _, results.rate, network = min(tried, key=lambda one: one[0])
        evaluation = ranking_model.evaluate(network, MemoryLoader(tested, 1024, seed))
        results.probabilities.append(ranking_model.probabilities(network, evaluation))
        results.labels, results.users = evaluation.labels, evaluation.users
    return results


def _compared(with_: Results, without: Results, tasks: Sequence[str], resamples: int) -> list[contract.Row]:
    """Per task: mean over the seeds of 1 - NE with / NE without; its interval over users: the same draws for both sides, all seeds."""
    rows = []
    for column, task in enumerate(tasks):
        label = with_.labels[:, column]
        losses = [[cross_entropies(label, one[:, column]) for one in its.probabilities] for its in (with_, without)]

        def gains(weights: np.ndarray, losses: list[list[np.ndarray]] = losses) -> list[float]:
            return [1 - float(weights @ b) / float(weights @ a) for b, a in zip(*losses, strict=True)]

        each = gains(np.ones(len(label)))
        low, high = cluster_bootstrap(lambda weights, gains=gains: float(np.mean(gains(weights))), with_.users, resamples)  # type: ignore[misc]
        row: contract.Row = {"task": task, "rows": len(label), "positives": int(label.sum()), "users": len(np.unique(with_.users))}
        for side, its in (("with", with_), ("without", without)):
            row[f"ne_{side}"] = float(np.mean([normalized_entropy(label, one[:, column]) for one in its.probabilities]))
            row |= {f"parameters_{side}": its.parameters, f"rate_{side}": its.rate}
        rows.append(row | {"gain": float(np.mean(each)), "low": low, "high": high, "gain_min": min(each), "gain_max": max(each)})
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = contract.quality_parser(__doc__, SEEDS)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    size = {"seeds": options.seeds, "resamples": options.resamples, "rates": RATES, "world": WORLD, "completejourney": COUPONS}
    for name in options.sets:  # what a set found is published before the next one starts
        with tempfile.TemporaryDirectory(prefix="ranking_fields_") as folder:
            publish(SETS[name], folder)
            rows = measured(name, SETS[name], logged(SETS[name], folder), options.seeds, options.resamples)
        others = contract.earlier("ranking_fields", lambda row, name=name: row["set"] != name, options.results)  # type: ignore[misc]
        rows = sorted([*others, *rows], key=lambda row: list(SETS).index(row["set"]))
        contract.publish("ranking_fields", size, rows, {}, options.results)


if __name__ == "__main__":
    main()
