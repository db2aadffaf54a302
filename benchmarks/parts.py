"""Does each part of the user model matter where it must? Worlds with one planted effect each (ALURE, sections 2.1 and 2.2).

    python -m benchmarks.parts [--worlds daily_cycle order ...]

In each world one thing about a user's history decides how likely a click is (80 % or 20 %). The same model is trained with the
part that can see it and without, on the same users, three seeds (each draws its own users, its own weights and its own batches),
and evaluated on users that no training saw: gain = 1 - NE with / NE without, with an interval over users. The twin of each world
whose labels were dealt out anew shows what the part gains where there is nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from alure_spark.batches.batch import Impressions, JaggedBatch, SourceTokens, offsets_of
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.batches.vocabulary import ACCOUNT, ITEM
from alure_spark.clock import DAY_MS, HOUR_MS
from alure_spark.config import ModelConfig, ObjectiveConfig, SemanticIdConfig, TrainingConfig
from alure_spark.metrics import cluster_bootstrap, normalized_entropy
from alure_spark.model.semantic_ids import SemanticIds
from alure_spark.model.spec import ModelSpec
from alure_spark.model.user_model import UserModel
from alure_spark.training import user_evaluation, user_training
from alure_spark.training.semantic_ids import train_semantic_ids
from benchmarks import contract

SEEDS = (7, 8, 9)
TRAINED, EVALUATED = 3_000, 2_000  # users; a quarter of the former chooses the epoch
START_MS = 1_736_121_600_000  # 2025-01-06, a Monday, midnight
SHOWN_DAY, END_DAY = 100, 140  # when impressions are: at random, so that their own clock says nothing
ITEMS, CATEGORIES = 50, 10  # rows 1.. of their spaces
MINUTE_MS = 60_000
MODEL: dict[str, Any] = {"dimension": 32, "heads": 4, "feed_forward": 64, "dropout": 0.1, "views": ("svd",), "item_vectors": False}
UNTIMED: dict[str, Any] = {"gap_encoding": False, "clock_encoding": False, "time_bias": False}
TRAINING = TrainingConfig(
    epochs=12,
    patience=12,
    batch_users=128,
    learning_rate=4e-3,
    threads=1,
    objectives=ObjectiveConfig(click=1.0, conversion=0.0, neighbour=0.0, next_item=0.0),
)
Random = np.random.Generator
Columns = dict[str, np.ndarray]  # name -> (U, n, ...): 'at' in ms after START_MS, below 0 where there is no event; 'category_id'; others
History = dict[str, Columns]  # source -> its events


@dataclass(frozen=True)
class World:
    """What is planted, and the part that can see it."""

    part: str
    without: Mapping[str, Any]
    with_: Mapping[str, Any]
    make: Callable[[Random, int], tuple[History, np.ndarray]]  # (random, U) -> events, and (U,) bool or (U, m) with `ad` whether it pays
    base: Mapping[str, Any] = field(default_factory=dict)  # of both models: what else could tell it is off
    attributes: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: {"view": {"category_id": "categorical"}})
    widths: Mapping[str, int] = field(default_factory=dict)  # of the model with the part: texts and embeddings that it reads
    widths_without: Mapping[str, int] = field(default_factory=dict)  # of the model without it
    codes: SemanticIdConfig | None = None  # the part reads `media` as the codes of such a quantiser
    impressions: int = 2


def _sides(random: Random, users: int) -> np.ndarray:
    return random.random(users) < 0.5


def _faithful(random: Random, side: np.ndarray, events: int, share: float = 0.85) -> np.ndarray:
    """(U, events) bool: the user's side, but for some events."""
    return side[:, None] ^ (random.random((len(side), events)) > share)


def daily_cycle(random: Random, users: int) -> tuple[History, np.ndarray]:
    """Some are there in the morning, some in the evening."""
    side = _sides(random, users)
    days = np.argsort(random.random((users, 60)), axis=1)[:, :12]
    hours = np.where(side, 8, 20)[:, None] + random.normal(0, 1.5, (users, 12))
    return {"view": {"at": days * DAY_MS + hours * HOUR_MS}}, side


def weekday(random: Random, users: int) -> tuple[History, np.ndarray]:
    """Some are there at weekends, some on two other days that follow each other."""
    side = _sides(random, users)
    first = np.where(side, 5, random.integers(0, 4, users))
    weeks = np.argsort(random.random((users, 13)), axis=1)[:, :10]
    day = 7 * weeks + first[:, None] + random.integers(0, 2, (users, 10))
    return {"view": {"at": day * DAY_MS + random.random((users, 10)) * DAY_MS}}, side


def recency_decay(random: Random, users: int) -> tuple[History, np.ndarray]:
    """Two kinds of events; what was last, an event counting half after a day."""
    gaps = np.exp(random.uniform(np.log(MINUTE_MS), np.log(3 * DAY_MS), (users, 16)))
    at, kind = gaps.cumsum(axis=1), random.random((users, 16)) < 0.5
    counts = np.where(kind, 1, -1) * 0.5 ** ((at[:, -1:] - at) / DAY_MS)
    return {"view": {"at": at, "category_id": 1 + kind}}, counts.sum(axis=1) > 0


def order(random: Random, users: int) -> tuple[History, np.ndarray]:
    """The kind of the last event but one."""
    kind = random.random((users, 12)) < 0.5
    gaps = np.exp(random.uniform(np.log(MINUTE_MS), np.log(5 * DAY_MS), (users, 12)))
    return {"view": {"at": gaps.cumsum(axis=1), "category_id": 1 + kind}}, kind[:, -2]


def gap(random: Random, users: int) -> tuple[History, np.ndarray]:
    """One kind of event comes at once after the one before, the other after days: which one?"""
    side, kind = _sides(random, users), random.random((users, 12)) < 0.5
    quick = kind ^ _faithful(random, side, 12)
    gaps = np.where(quick, random.uniform(1, 10, kind.shape) * MINUTE_MS, random.uniform(1, 3, kind.shape) * DAY_MS)
    return {"view": {"at": gaps.cumsum(axis=1), "category_id": 1 + kind}}, side


def engagement_order(random: Random, users: int) -> tuple[History, np.ndarray]:
    """One event stands out: was it among the user's first three, or later?"""
    side, events = _sides(random, users), 20
    count, place = random.integers(10, events + 1, users), np.arange(events)
    which = np.where(side, random.integers(0, 3, users), random.integers(3, 8, users))
    at = np.where(place < count[:, None], random.uniform(0, 4 * DAY_MS, (users, events)).cumsum(axis=1), -1)
    kind = np.where(place == which[:, None], 1, 2 + random.integers(0, 3, (users, events)))
    return {"view": {"at": at, "category_id": kind}}, side


def relative_hour(random: Random, users: int) -> tuple[History, np.ndarray]:
    """One event stands out: was it at the hour of the day of the last event?"""
    side, events = _sides(random, users), 10
    days, hours = np.arange(events) * 5 + random.integers(0, 4, (users, events)), 24 * random.random((users, events))
    which = random.integers(0, events - 1, users)
    shift = np.where(side, random.uniform(-1, 1, users), random.uniform(5, 19, users))
    hours[np.arange(users), which] = hours[:, -1] + shift
    kind = np.where(np.arange(events) == which[:, None], 1, 2)
    return {"view": {"at": days * DAY_MS + hours % 24 * HOUR_MS, "category_id": kind}}, side


def cross_source(random: Random, users: int) -> tuple[History, np.ndarray]:
    """One view stands out: of which of two kinds was the page just before it?"""
    side, views = _sides(random, users), 8
    at, which = (random.uniform(0.5, 4, (users, views)) * DAY_MS).cumsum(axis=1), random.integers(0, views, users)
    marked = np.arange(views) == which[:, None]
    page = np.where(marked, side[:, None], random.random((users, views)) < 0.5)
    before = random.uniform(1, 30, (users, views)) * MINUTE_MS
    return {"view": {"at": at, "category_id": 2 - marked}, "page": {"at": at - before, "category_id": 1 + page}}, side


def long_range(random: Random, users: int) -> tuple[History, np.ndarray]:
    """One event of two kinds, 50 to 90 events ago."""
    side, events = _sides(random, users), 100
    place = np.arange(events) == (events - random.integers(50, 90, users))[:, None]
    kind = np.where(place, 1 + side[:, None], 3 + random.integers(0, 6, (users, events)))
    return {"view": {"at": random.uniform(0, DAY_MS, (users, events)).cumsum(axis=1), "category_id": kind}}, side


def ad_interest(random: Random, users: int) -> tuple[History, np.ndarray]:
    """Liked or not: the user's last word on the category of the ad."""
    events, shown = 24, 6
    kind, liked = random.integers(0, 6, (users, events)), random.random((users, events)) < 0.5
    said = np.zeros((users, 6), bool)
    for step in range(events):
        said[np.arange(users), kind[:, step]] = liked[:, step]
    ad = np.take_along_axis(kind, random.integers(0, events, (users, shown)), axis=1)  # of the categories that the user had
    view = {
        "at": (random.uniform(0.2, 3, (users, events)) * DAY_MS).cumsum(axis=1),
        "category_id": 1 + kind,
        "value": np.where(liked, 3.0, -3.0),
    }
    return {"view": view, "ad": {"category_id": 1 + ad}}, np.take_along_axis(said, ad, axis=1)


def media_cluster(random: Random, users: int) -> tuple[History, np.ndarray]:
    """Pictures of six clusters, three of either side."""
    centres = np.random.default_rng(0).normal(0, 1, (6, 8))
    side = _sides(random, users)
    cluster = 3 * _faithful(random, side, 8, 0.7) + random.integers(0, 3, (users, 8))
    media = centres[cluster] + random.normal(0, 0.7, (users, 8, 8))
    return {"view": {"at": (random.uniform(0, 8, (users, 8)) * DAY_MS).cumsum(axis=1), "media": media.astype(np.float32)}}, side


def media_lookup(random: Random, users: int) -> tuple[History, np.ndarray]:
    """Pictures of 64 clusters, sides dealt out among them at random: no direction of the embedding tells them apart."""
    fixed = np.random.default_rng(0)
    centres, of_side = fixed.normal(0, 1, (64, 8)), fixed.permutation(64).reshape(2, 32)
    side = _sides(random, users)
    cluster = of_side[_faithful(random, side, 8).astype(int), random.integers(0, 32, (users, 8))]
    media = centres[cluster] + random.normal(0, 0.2, (users, 8, 8))
    return {"view": {"at": (random.uniform(0, 8, (users, 8)) * DAY_MS).cumsum(axis=1), "media": media.astype(np.float32)}}, side


def text_topic(random: Random, users: int) -> tuple[History, np.ndarray]:
    """Comments of six words, of which a third is of one of two topics of thirty words; all others are anybody's."""
    hashes = np.random.default_rng(0).integers(1, 2**32, 120)
    side, shape = _sides(random, users), (users, 8, 6)
    topic = 30 * _faithful(random, side, 8, 0.8)[:, :, None] + random.integers(0, 30, shape)
    words = hashes[np.where(random.random(shape) < 1 / 3, topic, random.integers(60, 120, shape))]
    return {"view": {"at": (random.uniform(0, 8, (users, 8)) * DAY_MS).cumsum(axis=1), "title": words}}, side


TIMES: Mapping[str, Mapping[str, str]] = {"view": {}}
RATED = {"view": {"category_id": "categorical", "value": "numeric"}}
WORLDS = {
    "daily_cycle": World("clock encoding", {"clock_encoding": False}, {"clock_encoding": True}, daily_cycle, {}, TIMES),
    "weekday": World("clock encoding", {"clock_encoding": False}, {"clock_encoding": True}, weekday, {}, TIMES),
    "recency_decay": World("pairwise time bias", {}, {"time_bias": True}, recency_decay, UNTIMED),
    "order": World("order bias", {"order_encoding": False}, {"order_encoding": True}, order, UNTIMED),
    "gap": World("gap encoding", {}, {"gap_encoding": True}, gap, UNTIMED),
    "engagement_order": World("frequency encoding", {}, {"frequency_encoding": True}, engagement_order, UNTIMED),
    "relative_hour": World("rotary encoding", {}, {"rotary_encoding": True}, relative_hour, UNTIMED),
    "cross_source": World(
        "exchange between sources", {}, {"exchange": True}, cross_source, {"layers": 2},
        {name: {"category_id": "categorical"} for name in ("view", "page")},
    ),
    "long_range": World("window of 100 events instead of 16", {"window": 16}, {"window": 100}, long_range),
    "ad_interest": World("ad attention", {}, {"ad_attention": 24}, ad_interest, {}, RATED, impressions=6),
    "media_cluster": World("media embeddings", {}, {}, media_cluster, {}, {"view": {"media": "embedding"}}, {"media": 8}),
    "media_lookup": World(
        "semantic ids", {}, {}, media_lookup, {}, {"view": {"media": "embedding"}}, {"media": 8}, codes=SemanticIdConfig(levels=2, codes=64)
    ),
    "text_topic": World("texts", {}, {}, text_topic, {}, {"view": {"title": "text"}}, {"title": 6}),
}  # fmt: skip
# Two ways of having the part, which needs no twin. What the paper leaves open (section 2.2): may the values carry the encodings
# too, or the queries and keys alone?
ABLATIONS = {
    "media_lookup_codes": replace(
        WORLDS["media_lookup"], part="semantic ids instead of embeddings", widths_without=WORLDS["media_lookup"].widths
    )
} | {
    f"{name}_values": replace(world, part=f"{world.part} in values too", without={**world.with_, "value_encodings": False})
    for name, world in WORLDS.items()
    if world.part in ("clock encoding", "gap encoding", "frequency encoding")
}


def spec_of(world: World, with_part: bool, seed: int, quantizer: SemanticIds | None = None) -> ModelSpec:
    """The model with or without the part."""
    settings = MODEL | dict(world.base) | dict(world.with_ if with_part else world.without)
    return ModelSpec(
        sources=world.attributes,
        item_sources=("view",),
        spaces={ITEM: ITEMS, ACCOUNT: 1, "category_id": CATEGORIES},
        impression_attributes={"category_id": "categorical"} if world.impressions > 2 else {},
        item_dimension=16,
        widths=world.widths if with_part else world.widths_without,
        quantizers={"media": quantizer.size} if quantizer else {},
        config=ModelConfig(seed=seed, **settings),
    )


def batch_of(world: World, users: int, random: Random, null: bool, evaluated: bool) -> JaggedBatch:
    """So many users; a quarter of them, or all where they are evaluated, are the validation split."""
    history, pays = world.make(random, users)
    ads = history.pop("ad", {})
    pays = np.broadcast_to(pays if pays.ndim == 2 else pays[:, None], (users, world.impressions))
    if null:
        pays = random.permutation(pays.ravel()).reshape(pays.shape)
    click = random.random(pays.shape) < np.where(pays, 0.8, 0.2)
    at = np.sort(random.uniform(SHOWN_DAY, END_DAY, pays.shape), axis=1) * DAY_MS
    validation = np.full(users, True) if evaluated else random.random(users) < 0.25
    count = pays.size
    shown = Impressions(
        offsets=offsets_of(torch.full((users,), world.impressions)),
        time_ms=torch.from_numpy(START_MS + at.ravel().astype(np.int64)),
        rows={name: torch.from_numpy(values.ravel()) for name, values in ads.items()}
        | {name: torch.zeros(count, dtype=torch.int64) for name in (ITEM, ACCOUNT)},
        numbers={},
        labels={"click": torch.from_numpy(click.ravel()).float(), "conversion": torch.zeros(count)},
        weight=torch.ones(count),
        label_age_ms=torch.zeros(count, dtype=torch.int64),
        validation=torch.from_numpy(np.repeat(validation, world.impressions)),
    )
    return JaggedBatch(
        segment="all",
        user_ids=tuple(f"u{number}" for number in range(users)),
        country=torch.zeros(users, dtype=torch.int64),
        as_of_ms=torch.full((users,), START_MS + END_DAY * DAY_MS),
        sources={source: _tokens(columns, world.attributes[source], random) for source, columns in history.items()},
        impressions=shown,
    )


def _tokens(columns: Columns, attributes: Mapping[str, str], random: Random) -> SourceTokens:
    """The events, users one after the other, by time; items are drawn at random."""
    at = columns["at"]
    if at.max() >= SHOWN_DAY * DAY_MS:
        raise ValueError("a planted history reaches past its impressions")
    by_time = np.argsort(at, axis=1, kind="stable")
    there = np.take_along_axis(at, by_time, axis=1) >= 0

    def flat(values: np.ndarray) -> torch.Tensor:
        places = by_time.reshape(by_time.shape + (1,) * (values.ndim - 2))
        return torch.from_numpy(np.take_along_axis(values, places, axis=1)[there])

    time_ms = START_MS + flat(at).to(torch.int64)
    of_kind = {
        kind: {name: flat(columns[name]) for name, its in attributes.items() if its == kind}
        for kind in ("categorical", "numeric", "text", "embedding")
    }
    item = torch.from_numpy(random.integers(1, ITEMS, len(time_ms)))
    rows = {ITEM: item, **{name: values.to(torch.int64) for name, values in of_kind["categorical"].items()}}
    numbers = {name: values.to(torch.float32) for name, values in of_kind["numeric"].items()}
    offsets = offsets_of(torch.from_numpy(there.sum(axis=1)))
    return SourceTokens(offsets, time_ms, time_ms, rows, numbers, of_kind["text"], of_kind["embedding"])


def predicted(world: World, with_part: bool, trained: JaggedBatch, evaluated: JaggedBatch, seed: int) -> np.ndarray:
    """(M,) calibrated click probabilities of the evaluated impressions."""
    end = START_MS + END_DAY * DAY_MS
    when = user_training.Calendar((START_MS,), end - 1, end)
    quantizer = None
    if world.codes and with_part:  # from the pictures alone: labels have no say
        quantizer = train_semantic_ids(trained.sources["view"].vectors["media"], replace(world.codes, seed=seed))
    model = UserModel(spec_of(world, with_part, seed, quantizer))
    if quantizer:
        model.encoder.quantizers["media"].load_state_dict(quantizer.state_dict())
    found = user_training.train(model, MemoryLoader(trained, TRAINING.batch_users, seed), when, TRAINING)
    evaluation = user_evaluation.evaluate(found.model, MemoryLoader(evaluated, 1024, seed), when.validation(), TRAINING.objectives)
    return user_evaluation.probabilities(found.model, evaluation)[:, 0]


def gain_of(name: str, null: bool, seeds: Sequence[int], sizes: tuple[int, int], resamples: int) -> contract.Row:
    """One row of the table."""
    world = (WORLDS | ABLATIONS)[name]
    results: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    for seed in seeds:
        trained, evaluated = (
            batch_of(world, users, np.random.default_rng([seed, part]), null, evaluated=bool(part)) for part, users in enumerate(sizes)
        )
        shown = evaluated.impressions
        assert shown is not None
        without, with_ = (predicted(world, part, trained, evaluated, seed) for part in (False, True))
        results.append((shown.labels["click"].double().numpy(), without, with_, shown.users().numpy() + sizes[1] * len(results)))
    borders = np.cumsum([len(labels) for labels, *_ in results])[:-1]

    def gains(weights: np.ndarray) -> list[float]:
        parts = zip(results, np.split(weights, borders), strict=True)
        return [1 - normalized_entropy(y, b, w) / normalized_entropy(y, a, w) for (y, a, b, _), w in parts]

    interval = cluster_bootstrap(
        lambda weights: float(np.mean(gains(weights))), np.concatenate([users for *_, users in results]), resamples
    )
    each = gains(np.ones(sum(len(labels) for labels, *_ in results)))
    without_ne, with_ne = (float(np.mean([normalized_entropy(result[0], result[at]) for result in results])) for at in (1, 2))
    row = {"world": f"{name}{' (null)' if null else ''}", "road": world.part, "ne_without": without_ne, "ne_with": with_ne}
    return row | {"gain": float(np.mean(each)), "low": interval.low, "high": interval.high, "gain_min": min(each), "gain_max": max(each)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = contract.quality_parser(__doc__, SEEDS)
    parser.add_argument("--worlds", nargs="+", choices=WORLDS | ABLATIONS, default=[*WORLDS, *ABLATIONS])
    parser.add_argument("--users", nargs=2, type=int, default=(TRAINED, EVALUATED), metavar=("TRAINED", "EVALUATED"))
    parser.add_argument("--null", choices=("also", "no"), default="also", help="also: the twins without the effect too")
    options = parser.parse_args(arguments)
    rows = []
    for name in options.worlds:
        for null in (False, True)[: 1 + (options.null == "also" and name in WORLDS)]:
            rows.append(gain_of(name, null, options.seeds, tuple(options.users), options.resamples))
            print(contract.table(rows[-1:]), flush=True)
    size = {"seeds": options.seeds, "trained": options.users[0], "judged": options.users[1]}
    contract.publish("parts", size, rows, {}, options.results)


if __name__ == "__main__":
    main()
