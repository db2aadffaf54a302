"""The user encoder on packed tokens beside padded rows: users per core-second, in inference and in training.

    python -m benchmarks.encoder --users 1024

Load: lognormal lengths (mean 54, at most 512 events of one source), two layers, d = 64, 4 heads, feed-forward 256, one thread.
`plain` has no time encodings, so that torch's nn.TransformerEncoder can answer it; `full` has all, and its peer is the padded twin
(benchmarks/padded.py). Inference is `embed`: tokens, layers, pooling, compression. Padded peers take batches of 64 users, as they
come or ordered by length. A training step is forward and backward of the states at all events. Once against per impression: the
click loss of impressions read from one encoding of each user, or from one copy of the history for each. Sub-graph against whole
model (section 2.4): the embedding alone, or also the heads' probabilities of one impression of each user.

Methods alternate; outputs and gradients are equal first. Seconds are CPU seconds, because other work on the machine moves the wall. The
ceiling is the rate of the layers' matrix products alone, of a chunk of tokens; the share counts the products that embed executes.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alure_spark.batches.batch import Impressions, JaggedBatch, SourceTokens, offsets_of, ranges, select_users
from alure_spark.batches.history import known_ends
from alure_spark.batches.vocabulary import ACCOUNT, ITEM
from alure_spark.config import ModelConfig, ObjectiveConfig
from alure_spark.model.attention import CHUNK_TOKENS
from alure_spark.model.linear import linear
from alure_spark.model.spec import ModelSpec
from alure_spark.model.user_encoder import UserEncoder
from alure_spark.model.user_model import Moments, UserModel
from benchmarks import contract
from benchmarks.padded import PaddedEncoder, Padding, PlainPadded

try:
    import onnxruntime
except ImportError:
    onnxruntime = None

SOURCE, ITEMS, PADDED_USERS, STEP_USERS = "purchase", 20_000, 64, 256
DAY_MS, BEGIN_MS, DAYS = 86_400_000, 1_480_000_000_000, 360
CLICKS = ObjectiveConfig(click=1, conversion=0, neighbour=0, next_item=0)
PLAIN = {"order_encoding": False, "time_bias": False, "gap_encoding": False, "clock_encoding": False}


@dataclass(frozen=True)
class Method:
    """One way of doing one piece of work; `users` are answered by one call."""

    name: str
    users: int
    call: Callable[[], Any]


def spec_of(switches: Mapping[str, Any]) -> ModelSpec:
    config = ModelConfig(**{"layers": 2, "max_events": 4096, "window": 4096, "dropout": 0.0, **switches})
    return ModelSpec({SOURCE: {}}, (SOURCE,), {ITEM: ITEMS, ACCOUNT: 1}, config=config)


def load_of(users: int, impressions: int = 0, mean: float = 54, longest: int = 512, seed: int = 7) -> JaggedBatch:
    """Users with lognormal lengths, items by Zipf's law, uniform times; and so many impressions each, at uniform times."""
    draw = np.random.default_rng(seed)
    lengths = np.clip(np.round(draw.lognormal(np.log(mean) - 0.5, 1.0, users)), 1, longest).astype(np.int64)

    def times(counts: np.ndarray) -> Tensor:
        """Ascending within a user."""
        time_ms = BEGIN_MS + draw.integers(0, DAYS * DAY_MS, counts.sum())
        return torch.from_numpy(time_ms[np.lexsort((time_ms, np.repeat(np.arange(users), counts)))])

    def items(count: int) -> Tensor:
        return torch.from_numpy(np.minimum(draw.zipf(1.3, count), ITEMS - 1))

    known, shown = times(lengths), np.full(users, impressions)
    count = int(shown.sum())
    return JaggedBatch(
        segment="all",
        user_ids=tuple(map(str, range(users))),
        country=torch.zeros(users, dtype=torch.int64),
        as_of_ms=torch.full((users,), BEGIN_MS + DAYS * DAY_MS),
        sources={SOURCE: SourceTokens(offsets_of(torch.from_numpy(lengths)), known, known, {ITEM: items(len(known))}, {})},
        impressions=Impressions(
            offsets_of(torch.from_numpy(shown)),
            times(shown),
            {ITEM: items(count), ACCOUNT: torch.zeros(count, dtype=torch.int64)},
            {},
            {"click": torch.from_numpy(draw.integers(0, 2, count)).float(), "conversion": torch.zeros(count)},
            torch.ones(count),
            torch.zeros(count, dtype=torch.int64),
            torch.zeros(count, dtype=torch.bool),
        ),
    )


def batches_of(batch: JaggedBatch, size: int, by_length: bool = False) -> list[JaggedBatch]:
    """The users in batches of `size`, as they come or by length."""
    order = torch.argsort(batch.sources[SOURCE].lengths, stable=True) if by_length else torch.arange(len(batch))
    return [select_users(batch, users) for users in order.split(size)]


def one_copy_per_impression(batch: JaggedBatch, max_events: int) -> JaggedBatch:
    """A user for each impression, with the last max_events events known before it: what a model without encode-once trains on."""
    shown = batch.impressions
    assert shown is not None
    owners, sources = shown.users(), {}
    for name, tokens in batch.sources.items():
        end = known_ends(tokens, owners, shown.time_ms)
        first = torch.maximum(end - max_events, tokens.offsets[owners])
        kept = ranges(first, end - first)
        rows, numbers = ({key: column[kept] for key, column in part.items()} for part in (tokens.rows, tokens.numbers))
        sources[name] = SourceTokens(offsets_of(end - first), tokens.known_at_ms[kept], tokens.event_time_ms[kept], rows, numbers)
    return JaggedBatch(
        batch.segment,
        tuple(batch.user_ids[user] for user in owners.tolist()),
        batch.country[owners],
        shown.time_ms,
        sources,
        replace(shown, offsets=torch.arange(len(owners) + 1)),
    )


class PlainLayers(nn.Module):
    """The layers of the plain configuration in operations that ONNX has for any batch and length; nn.TransformerEncoder's do not export."""

    def __init__(self, encoder: UserEncoder) -> None:
        super().__init__()
        self.heads, self.norm = encoder.spec.config.heads, encoder.final_norm[SOURCE]
        self.layers = nn.ModuleList(dict(layer.named_children())[SOURCE] for layer in encoder.layers)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, L, d) and mask (L, L), -inf where a key is hidden -> (B, L, d)."""
        module: Any
        for module in self.layers:
            rows = module.attention.inputs(module.attention_norm(x)).chunk(3, dim=-1)
            q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in rows)
            shares = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 + mask).softmax(-1)
            x = x + module.attention.output((shares @ v).transpose(1, 2).flatten(2))
            x = x + module.feed_forward(module.forward_norm(x))
        return self.norm(x)


class OnnxPadded(PlainPadded):
    """The padded layers in ONNX Runtime; tokens, pooling and compression stay in torch."""

    def __init__(self, encoder: UserEncoder) -> None:
        super().__init__(encoder)
        example = (torch.randn(3, 7, self.spec.config.dimension), nn.Transformer.generate_square_subsequent_mask(7))
        axes = {"x": {0: "users", 1: "length"}, "mask": {0: "length", 1: "length"}, "states": {0: "users", 1: "length"}}
        with tempfile.TemporaryDirectory() as folder:
            torch.onnx.export(
                PlainLayers(encoder).eval(), example, f"{folder}/model.onnx", dynamo=False,
                input_names=["x", "mask"], output_names=["states"], dynamic_axes=axes,
            )  # fmt: skip
            model = Path(folder, "model.onnx").read_bytes()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def padded_states(self, batch: JaggedBatch, paddings: Mapping[str, Padding]) -> dict[str, Tensor]:
        """source -> (B, L, d)."""
        x = self.tokens(SOURCE, batch.sources[SOURCE], paddings[SOURCE])
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return {SOURCE: torch.from_numpy(self.session.run(None, {"x": x.numpy(), "mask": mask.numpy()})[0])}


def embed(encoder: Any, batches: Sequence[JaggedBatch]) -> Tensor:
    """(B, D) of all batches in turn."""
    with torch.inference_mode():
        return torch.cat([encoder.embed(batch) for batch in batches])


def train(encoder: Any, weights: UserEncoder, batches: Sequence[JaggedBatch]) -> Tensor:
    """Gradients, flat, of a sum over the states of all events that counts each of them otherwise; the same for any batches."""
    weights.zero_grad()
    for batch in batches:
        states = encoder.states(batch)[SOURCE]
        wanted = torch.sin(batch.sources[SOURCE].known_at_ms[:, None] % 1000 + torch.arange(states.shape[1]))
        (states * wanted).sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in weights.parameters() if parameter.grad is not None])


def require_equal(name: str, mine: Tensor, theirs: Tensor) -> None:
    """Raises AssertionError where the two differ by more than 1e-4 of the largest number."""
    worst = float((mine - theirs).abs().max() / mine.abs().max())
    assert worst < 1e-4, f"{name}: outputs differ by {worst:.1e} of the largest"


def inference_methods(batch: JaggedBatch) -> list[Method]:
    """Ours and its peers, after their outputs were found equal."""
    whole, random, ordered = [batch], batches_of(batch, PADDED_USERS), batches_of(batch, PADDED_USERS, by_length=True)
    place = torch.argsort(torch.argsort(batch.sources[SOURCE].lengths, stable=True), stable=True)
    methods = []
    for kind, switches in (("plain", PLAIN), ("full", {})):
        encoder = UserEncoder(spec_of(switches)).eval()
        nn.init.constant_(encoder.residual_share, 0.5)  # at its start, 0, the layers would not count
        peers: dict[str, PaddedEncoder] = {"padded": PlainPadded(encoder) if kind == "plain" else PaddedEncoder(encoder)}
        if kind == "plain" and onnxruntime:
            peers["onnx"] = OnnxPadded(encoder)
        expected = embed(encoder, whole)
        methods.append(Method(f"inference_{kind} ours", len(batch), functools.partial(embed, encoder, whole)))
        for name, peer in peers.items():
            for order, parts in (("random", random), ("sorted", ordered)):
                found = embed(peer.eval(), parts)
                require_equal(f"{kind} {name} {order}", expected, found if order == "random" else found[place])
                methods.append(Method(f"inference_{kind} {name}_{order}", len(batch), functools.partial(embed, peer, parts)))
    return methods


def training_methods(batch: JaggedBatch) -> list[Method]:
    """Ours in steps of STEP_USERS and its padded peers, after their gradients were found equal."""
    ours, random, ordered = (
        batches_of(batch, STEP_USERS),
        batches_of(batch, PADDED_USERS),
        batches_of(batch, PADDED_USERS, by_length=True),
    )
    methods = []
    for kind, switches in (("plain", PLAIN), ("full", {})):
        encoder = UserEncoder(spec_of(switches)).eval()  # no dropout, so that gradients can be compared
        padded = PlainPadded(encoder) if kind == "plain" else PaddedEncoder(encoder)
        expected = train(encoder, encoder, ours)
        methods.append(Method(f"training_{kind} ours", len(batch), functools.partial(train, encoder, encoder, ours)))
        for order, parts in (("random", random), ("sorted", ordered)):
            require_equal(f"gradients, {kind} {order}", expected, train(padded, encoder, parts))
            methods.append(Method(f"training_{kind} padded_{order}", len(batch), functools.partial(train, padded, encoder, parts)))
    return methods


def impression_methods(batch: JaggedBatch) -> list[Method]:
    """One training step of the click objective, full configuration: history encoded once, or once per impression."""
    model = UserModel(spec_of({})).eval()
    moments = Moments(BEGIN_MS, BEGIN_MS + DAYS * DAY_MS)

    def step(one: JaggedBatch) -> Tensor:
        model.zero_grad()
        model.losses(one, moments, CLICKS)["click"].backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])

    copies = one_copy_per_impression(batch, model.spec.config.max_events)
    require_equal("gradients, one copy per impression", step(batch), step(copies))
    return [
        Method("impressions once", len(batch), functools.partial(step, batch)),
        Method("impressions copied", len(batch), functools.partial(step, copies)),
    ]


def evaluation_methods(batch: JaggedBatch) -> list[Method]:
    """What a refresh evaluates, full configuration: the user sub-graph alone, or the whole model at one impression per user."""
    model = UserModel(spec_of({})).eval()
    nn.init.constant_(model.encoder.residual_share, 0.5)

    def whole() -> Tensor:
        with torch.inference_mode():
            states = model.encoder.states(batch)
            model.readout.probabilities(model.readout(batch, states, model.encoder))
            return model.encoder.embed_at(batch, states, torch.arange(len(batch)), batch.as_of_ms)

    subgraph = functools.partial(embed, model.encoder, [batch])
    require_equal("sub-graph", whole(), subgraph())
    return [Method("evaluation subgraph", len(batch), subgraph), Method("evaluation whole", len(batch), whole)]


def layer_products(tokens: int) -> tuple[Callable[[], None], float]:
    """(the four matrix products of a layer on so many tokens, their floating-point operations)."""
    config = ModelConfig()
    d, f = config.dimension, config.feed_forward
    shapes = [(d, 3 * d), (d, d), (d, f), (f, d)]
    inputs = [(torch.randn(tokens, before), torch.randn(after, before)) for before, after in shapes]

    def call() -> None:
        for x, weight in inputs:
            linear(x, weight)

    return call, float(sum(2 * tokens * before * after for before, after in shapes))


def embed_operations(batch: JaggedBatch, spec: ModelSpec) -> float:
    """Floating-point operations of the matrix products in embed: causal attention counts half, the last layer has one query per user."""
    config, n = spec.config, batch.sources[SOURCE].lengths.double()
    d, width = config.dimension, spec.views * spec.item_dimension
    dense = 8 * d**2 + 4 * d * config.feed_forward  # of a token in a layer
    layers = (config.layers - 1) * (dense * n + 2 * d * n**2)
    last = 4 * config.heads * d * n + dense
    return float((2 * width * d * n + layers + last + 4 * d * (d + width)).sum())


def ceiling_share(batch: JaggedBatch) -> float:
    """The rate of embed (plain) over the rate of a layer's matrix products alone, each the best of five in turn."""
    encoder = UserEncoder(spec_of(PLAIN)).eval()
    products, operations = layer_products(CHUNK_TOKENS)
    best = {"embed": float("inf"), "products": float("inf")}
    with torch.inference_mode():
        for _ in range(5):
            for name, call in (("embed", lambda: embed(encoder, [batch])), ("products", lambda: [products() for _ in range(20)])):
                began = time.process_time()
                call()
                best[name] = min(best[name], time.process_time() - began)
    return embed_operations(batch, encoder.spec) / best["embed"] / (20 * operations / best["products"])


def measure(methods: Sequence[Method], repetitions: int) -> tuple[list[contract.Row], dict[str, list[float]]]:
    """One row per method with the medians, and method -> users per CPU second of each repetition; the methods alternate."""
    seen: dict[str, list[contract.Row]] = {method.name: [] for method in methods}
    for _ in range(repetitions):
        for method in methods:
            row: contract.Row = {"road": method.name, "users": method.users}
            with contract.measured(row):
                method.call()
            seen[method.name].append(row)
    rows, rates = [], {}
    for name, found in seen.items():
        rates[name] = [row["users"] / (row["seconds_cpu"] or row["seconds_wall"]) for row in found]
        middle = {
            key: statistics.median([row[key] for row in found if row[key] is not None] or [0.0])
            for key in ("seconds_cpu", "seconds_wall", "peak_mb")
        }
        rows.append({"road": name, "users": found[0]["users"], **middle, "users_per_core_second": statistics.median(rates[name])})
    return rows, rates


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1024, help="users of an inference method")
    parser.add_argument("--training-users", type=int, default=256, help="users of a training method, the first ones")
    parser.add_argument("--impressions", type=int, default=20, help="impressions per user of a training method that has them")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--results", default=str(contract.RESULTS), help="folder of the result file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(7)
    if onnxruntime is None:
        print("onnxruntime is not installed: its methods are left out")
    batch = load_of(options.users)
    few = select_users(batch, torch.arange(min(options.training_users, options.users)))
    methods = [
        *inference_methods(replace(batch, impressions=None)),
        *training_methods(replace(few, impressions=None)),
        *impression_methods(load_of(len(few), options.impressions)),
        *evaluation_methods(load_of(options.users, 1)),
    ]
    rows, rates = measure(methods, options.repetitions)

    def ratio(mine: str, theirs: str) -> dict[str, float]:
        return contract.spread([one / other for one, other in zip(rates[mine], rates[theirs], strict=True)])

    ratios = {}
    for work in ("inference", "training"):
        for kind, key in (("plain", work), ("full", f"{work}_full")):
            for order in ("random", "sorted"):
                ratios[f"{key}_vs_padded_{order}"] = ratio(f"{work}_{kind} ours", f"{work}_{kind} padded_{order}")
    if onnxruntime:
        for order in ("random", "sorted"):
            ratios[f"inference_vs_onnx_{order}"] = ratio("inference_plain ours", f"inference_plain onnx_{order}")
    ratios["encode_once_vs_per_impression"] = ratio("impressions once", "impressions copied")
    ratios["subgraph_vs_whole_model"] = ratio("evaluation subgraph", "evaluation whole")
    ratios["gemm_ceiling_share"] = contract.spread([ceiling_share(batch) for _ in range(options.repetitions)])
    size = {**vars(options), "tokens": batch.tokens(), "mean_length": batch.tokens() / len(batch), "threads": 1}
    del size["results"]
    contract.publish("encoder", size, rows, ratios, Path(options.results))


if __name__ == "__main__":
    main()
