"""What does a downstream model lose when the user model is trained anew every day? (LFM4Ads; drift of representations)

    python -m benchmarks.transfer_drift

A ranking model on a poor surface reads the representations of a user model (UR, IR, CR). It was trained on day 0 with those of the version
of that time; on each of ten days there is a new version, from other first weights. Per day: NE of the downstream model with the new
version's vectors as they are, turned into the old space (alure_spark/alignment.py), with a version that went on from the old one, with
the old version's last rows or the old version run every day, and where the downstream model, too, is trained every day. Three worlds; gains
are 1 - NE / NE of the other, with an interval over the users of all of them. In the null twin the clicks follow nothing that a
representation could know.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch

from alure_spark.alignment import fit_alignment
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.batches.vocabulary import Vocabulary
from alure_spark.config import ExpertConfig, RankingConfig
from alure_spark.metrics import normalized_entropy
from alure_spark.ranking.network import RankingNetwork
from alure_spark.ranking.spec import FieldSpec, RankingSpec
from alure_spark.training import ranking_model
from benchmarks import contract
from benchmarks import transfer_drift_versions as versions
from benchmarks import transfer_drift_world as worlds
from benchmarks.ranking_parts import cross_entropies, equalized, gain
from benchmarks.transfer_drift_roads import ALL, ANEW, FROZEN, HELD, KEPT, KINDS, LINEAR, NONE, RAW, ROADS, TURNED, WARM
from benchmarks.transfer_drift_versions import Representations

SEEDS = (7, 8, 9)
USERS, DAYS = 500, 10
FIRST, SERVED = versions.HISTORY, 5  # the day whose morning the first version is trained in; days from which the downstream model learns
CONFIG = RankingConfig(epochs=12, patience=2, learning_rate=4e-3, batch_users=64)


def spec_of(kinds: Sequence[str]) -> RankingSpec:
    """The downstream model: the ad's id, and the representations through a non-linear adapter."""
    fields = {"ad": FieldSpec("id", {"size": 1 + worlds.ADS}, group="ad", part="ad")}
    for kind in kinds:
        sides = {"user": ("user",), "item": ("ad",), "cross": ("user", "ad")}[kind]
        settings = {"numbers": versions.WIDTHS[kind], "adapter": "nonlinear"}
        fields |= {f"{side}_{kind}": FieldSpec("numbers", settings, group=side, part=side) for side in sides}
    return RankingSpec(
        fields=fields,
        tables={"one": 8},
        experts={"flat": ExpertConfig("flat_dnn", "one", {"hidden": (32,)}), "cross": ExpertConfig("dcn_v2", "one")},
        tasks=("click",),
        hidden=32,
        tower=(16,),
    )


@dataclass
class Lane:
    """One world over the days: its versions, and what each road reads as of a morning."""

    world: worlds.DriftWorld
    seed: int
    reads: dict[str, dict[int, Representations]] = field(default_factory=dict)  # road -> day -> what is read on it
    residuals: list[dict[str, float | str | int]] = field(default_factory=list)  # one per day and way of turning


def lane(seed: int, users: int, days: int) -> Lane:
    """The world, its first version and one more per day."""
    last = FIRST + SERVED - 1  # the last day of the first version
    made = Lane(worlds.drawn(np.random.default_rng(seed), users, last + days + 1), seed)
    old = versions.version(made.world, FIRST, 1000 * seed)
    made.reads[HELD] = {day: versions.representations(made.world, old, day) for day in range(FIRST, last + days + 1)}
    served = {day: made.reads[HELD][day] for day in range(FIRST, last + 1)}
    turns: dict[str, versions.Turn] = {RAW: versions.unturned, WARM: versions.unturned, TURNED: fit_alignment}
    turns[LINEAR] = partial(fit_alignment, kind="linear")
    made.reads |= {road: dict(served) for road in (KEPT, *turns)}
    warm = old
    for day in range(last + 1, last + days + 1):
        new = versions.representations(made.world, versions.version(made.world, day, 1000 * seed + day), day)
        warm = versions.version(made.world, day, 1000 * seed, before=warm)
        gone_on = versions.representations(made.world, warm, day)
        made.reads[KEPT][day] = served[last]
        for road, turn in turns.items():
            before = served[last] if road == RAW else made.reads[road][day - 1]  # yesterday's rows, as they were read
            made.reads[road][day], missed = versions.in_space(gone_on if road == WARM else new, before, turn)
            made.residuals.append({"road": road, "day": day - last, **missed})
        print(f"seed {seed}: version of day {day - last} of {days}", file=sys.stderr, flush=True)
    return made


def vectors(lane: Lane, road: str, kinds: Sequence[str], days: range) -> dict[str, np.ndarray]:
    """Field -> (U * days * POOR, d): of each impression what was published in the morning of its day, of its user or its ad."""
    users = lane.world.users
    ads = lane.world.poor[days.start : days.stop]  # (days, U, POOR)
    result: dict[str, list[np.ndarray]] = {}
    for place, day in enumerate(days):
        read, who = lane.reads[road][day], np.broadcast_to(np.arange(users)[:, None], ads[place].shape)
        sides = {"user": {"user": who}, "item": {"ad": ads[place]}, "cross": {"user": who, "ad": users + ads[place]}}
        for kind in kinds:
            for side, rows in sides[kind].items():
                result.setdefault(f"{side}_{kind}", []).append(getattr(read, kind)[rows])
    return {name: np.stack(its, axis=1).reshape(-1, its[0].shape[-1]) for name, its in result.items()}


@dataclass(frozen=True)
class Downstream:
    network: RankingNetwork
    known: slice  # the ads that it was trained on, as numbers from 0


def trained(lane: Lane, road: str, kinds: Sequence[str], end: int, null: bool) -> Downstream:
    """The downstream model that learns in the morning of the day `end`, from the SERVED days before it; a fifth of the users validate.

    All models have as many parameters as the one that reads all representations.
    """
    first = end - SERVED
    known = slice(worlds.active("ads", first).start, worlds.active("ads", end - 1).stop)
    validation = np.random.default_rng([lane.seed, 1]).random(lane.world.users) < 0.2
    ids, fitted, loaders = np.arange(1, 1 + worlds.ADS), dict[str, RankingSpec](), dict[str, MemoryLoader]()
    for name, its, reads in (("own", kinds, road), ("largest", ALL, HELD)):
        given = vectors(lane, reads, its, range(first, end))
        loaders[name] = MemoryLoader(
            worlds.poor_impressions(lane.world, first, end, null, given, validation, known), CONFIG.batch_users, lane.seed
        )
        fitted[name] = ranking_model.fitted_spec(spec_of(its), loaders[name], Vocabulary({"ad": (ids, ids)}))
    network = ranking_model.new_network(equalized(fitted)["own"], loaders["own"], lane.seed)
    return Downstream(ranking_model.train(network, loaders["own"], replace(CONFIG, seed=lane.seed)).network, known)


def tested(lane: Lane, model: Downstream, road: str, kinds: Sequence[str], day: int, null: bool) -> tuple[np.ndarray, np.ndarray]:
    """((M,) labels, (M,) calibrated probabilities) of the day's impressions, user by user."""
    given = vectors(lane, road, kinds, range(day, day + 1))
    batch = worlds.poor_impressions(lane.world, day, day + 1, null, given, True, model.known)
    evaluation = ranking_model.evaluate(model.network, MemoryLoader(batch, 4096, 0))
    return evaluation.labels[:, 0], ranking_model.probabilities(model.network, evaluation)[:, 0]


@dataclass
class Course:
    """A road over the days of one world."""

    ne: list[float]  # per day
    losses: np.ndarray  # (U,) nats of all of a user's impressions


def course(lane: Lane, road: str, kinds: Sequence[str], days: int, null: bool, models: dict[str, Downstream]) -> Course:
    """models: the downstream models of day 0 that other roads have trained, by what they read; this one's is added."""
    kinds, begin = (() if road == NONE else kinds), FIRST + SERVED
    reads = road.removesuffix(ANEW) if road != NONE else HELD
    key, losses, ne = " ".join(kinds), np.zeros(lane.world.users), []
    for day in range(begin, begin + days):
        if reads != road and road != NONE:
            model = trained(lane, reads, kinds, day, null)
        else:
            if key not in models:
                models[key] = trained(lane, HELD, kinds, begin, null)
            model = models[key]
        labels, predicted = tested(lane, model, reads, kinds, day, null)
        ne.append(normalized_entropy(labels, predicted))
        losses += cross_entropies(labels, predicted).reshape(lane.world.users, -1).sum(axis=1)
    return Course(ne, losses)


def measured(lanes: Sequence[Lane], name: str, null: bool, days: int, resamples: int) -> list[contract.Row]:
    """One row per road: its NE by day, and its gain over other roads, paired over users."""
    kinds, courses = KINDS[name], dict[str, list[Course]]()
    models: list[dict[str, Downstream]] = [{} for _ in lanes]
    for road in ROADS if name == next(iter(KINDS)) and not null else FROZEN:
        courses[road] = [course(one, road, kinds, days, null, known) for one, known in zip(lanes, models, strict=True)]
        print(f"{name}, {road}: {np.mean([one.ne for one in courses[road]]):.4f}", file=sys.stderr, flush=True)
    groups = [np.arange(one.world.users) for one in lanes]
    rows: list[contract.Row] = []
    for road, its in courses.items():
        by_day = np.mean([one.ne for one in its], axis=0)
        row: contract.Row = {"set": "roads", "reads": name, "null": null, "road": road, "ne": float(by_day.mean())}
        row["ne_by_day"] = by_day.round(5).tolist()
        for key, other in (("none", NONE), ("raw", RAW), ("rotated", TURNED), ("linear", LINEAR), ("kept", KEPT)):
            if other != road:
                found = gain([one.losses for one in its], [one.losses for one in courses[other]], groups, resamples)
                row |= {f"over_{key}": found["gain"], f"over_{key}_low": found["low"], f"over_{key}_high": found["high"]}
        rows.append(row)
    return rows


def residual_rows(lanes: Sequence[Lane]) -> list[contract.Row]:
    """One row per way of turning and representation: how far what was read lies from yesterday's, mean over days and worlds."""
    given = [one for lane in lanes for one in lane.residuals]
    rows: list[contract.Row] = []
    for road in (RAW, WARM, TURNED, LINEAR):
        for kind in ALL:
            values = [float(one[kind]) for one in given if one["road"] == road]
            rows.append({"set": "residuals", "road": road, "kind": kind, "residual": float(np.mean(values)), "most": max(values)})
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = contract.quality_parser(__doc__, SEEDS)
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--days", type=int, default=DAYS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    lanes = [lane(seed, options.users, options.days) for seed in options.seeds]
    rows = residual_rows(lanes)
    for name in KINDS:
        for null in (False, True)[: 1 + (name == next(iter(KINDS)))]:
            rows += measured(lanes, name, null, options.days, options.resamples)
    size = {"seeds": options.seeds, "users": options.users, "days": options.days, "kept": worlds.KEPT, "served": SERVED}
    contract.publish("transfer_drift", size, rows, {}, options.results)


if __name__ == "__main__":
    main()
