"""The exported user sub-graph (ALURE, section 2.4): jagged histories -> user embeddings, the same in every process.

Enters: an `Artifact`. Leaves: `UserEmbedder`, a pure function of arrays, and `Export`, which is what travels to Spark's workers:
the user sub-graph's bytes, what a small probe must give, and, where asked for, a compiled block. A worker that does not
reproduce the probe (another CPU, another torch, a damaged package) refuses to work instead of writing other embeddings.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..batches.batch import JaggedBatch, select_users
from ..batches.decode import Jagged, jagged_batch
from ..batches.texts_and_vectors import NUMBER_TYPES, text_or_vector_array
from ..batches.vocabulary import Vocabulary
from ..config import EVERYBODY, InferenceConfig
from ..errors import ConfigError, DataError
from ..model.artifact import Artifact
from ..model.spec import ModelSpec
from ..model.user_encoder import CausalModule, UserEncoder

logger = logging.getLogger(__name__)
DECIMALS = 6  # of an embedding's numbers: the noise of float32 lies below
TOLERANCE = 1e-5  # how far a worker or a compiled block may be from the eager float32 of the driver
PROBE_MS = 1_500_000_000_000  # a moment after the probe's last event
TIMED_TOKENS = 50_000  # of the sample by which `auto` chooses; about one Arrow batch


class UserEmbedder:
    """A user model that is loaded once and embeds batches. Not for training: weights are read in evaluation mode."""

    def __init__(self, artifact: Artifact, config: InferenceConfig, package: Package | None = None) -> None:
        """Takes the package where there is one; a compiled package must come from a machine with the same `machine()`."""
        encoder, self.vocabulary = artifact.encoder()
        self.encoder = encoder.to(getattr(torch, config.precision))
        self.spec, self.config = artifact.spec, config
        self.layout = artifact.spec.layout()
        if package:
            _install(self.encoder, package)

    @property
    def dimension(self) -> int:
        """D, the numbers of an embedding."""
        return self.spec.views * self.spec.item_dimension

    def embed(self, batch: JaggedBatch) -> np.ndarray:
        """(B, D) float32: unit rows rounded to 6 decimals, zeros for a user of whom nothing is known.

        At most config.max_tokens tokens run at once (a longer user runs alone). A number that lies on the border of two roundings
        may come out 1e-6 apart when the user stands in another batch. Raises DataError when a history reaches past its as_of.
        """
        _require_past(batch)
        found = torch.zeros(len(batch), self.dimension, dtype=self.encoder.item_vectors.dtype)
        lengths = torch.stack([batch.sources[source].lengths for source in self.spec.sources]).sum(0)
        with torch.inference_mode():
            for users in chunks(lengths, self.config.max_tokens):
                found[users] = self.encoder.embed(select_users(batch, users))
        # Adding 0 makes -0.0 a plain zero: equal embeddings have equal bytes.
        return found.numpy().round(DECIMALS).astype(np.float32) + np.float32(0)

    def embed_rows(self, rows: pa.RecordBatch, as_of_ms: np.ndarray, segment: str = EVERYBODY) -> np.ndarray:
        """(B, D) float32 of rows shaped as `user_sequences` (user_id and the lists), with as_of_ms (B,) int64, of users of one segment.

        Only what the model's policy leaves that segment is decoded. Raises DataError on missing or broken columns (batches/decode.py).
        """
        return self.embed(self.decoded(rows, as_of_ms, segment))

    def decoded(self, rows: pa.RecordBatch, as_of_ms: np.ndarray, segment: str = EVERYBODY) -> JaggedBatch:
        """The batch of such rows. Raises as embed_rows does."""
        layout = self.spec.layout(segment=segment)
        widths = layout.column_widths()
        columns = {
            name: jagged(rows.column(name), kind, widths.get(name, 1), name)
            for name, kind in layout.columns().items()
            if name in rows.schema.names
        }
        # Countries matter to training only: neighbours share one.
        users = rows.column("user_id").to_pylist()
        return jagged_batch(users, [""] * len(users), as_of_ms, columns, layout, self.vocabulary, segment)


def jagged(lists: pa.ListArray, kind: str, width: int, name: str) -> Jagged:
    """The lists of B users as offsets and values, also of a slice; a null list is an empty one. Copies only where it must.

    Raises DataError, which names the column, where an embedding has not `width` numbers.
    """
    lengths = pc.fill_null(lists.value_lengths(), 0).to_numpy().astype(np.int64)
    values = lists.flatten()  # knows slices and skips null lists, which .values does not
    if kind in NUMBER_TYPES:
        return Jagged(np.concatenate([[0], lengths.cumsum()]), text_or_vector_array(values, kind, width, name))
    present = values.is_valid().to_numpy(zero_copy_only=False) if values.null_count else None
    return Jagged(np.concatenate([[0], lengths.cumsum()]), (pc.fill_null(values, 0) if values.null_count else values).to_numpy(), present)


def chunks(lengths: Tensor, max_tokens: int) -> list[Tensor]:
    """Numbers of the users of lengths (B,) int64 that have tokens, by length, in runs of at most max_tokens tokens or one user."""
    order = torch.argsort(lengths, stable=True)
    order = order[lengths[order] > 0]
    ends, found, first = lengths[order].cumsum(0), [], 0
    while first < len(order):
        before = int(ends[first - 1]) if first else 0
        end = max(first + 1, int(torch.searchsorted(ends, before + max_tokens, right=True)))
        found.append(order[first:end])
        first = end
    return found


def _require_past(batch: JaggedBatch) -> None:
    """The last state takes each source's last event as it is, so an event at or after as_of would leak in silence."""
    for source, tokens in batch.sources.items():
        late = torch.nonzero(tokens.known_at_ms >= torch.repeat_interleave(batch.as_of_ms, tokens.lengths))
        if len(late):
            user = int(tokens.users()[late[0, 0]])
            raise DataError(
                f"user '{batch.user_ids[user]}' has an event of '{source}' known at {int(tokens.known_at_ms[late[0, 0]])} ms, but as_of is "
                f"{int(batch.as_of_ms[user])} ms: give the row of user_sequences at or before as_of"
            )


def probe(spec: ModelSpec, vocabulary: Vocabulary) -> JaggedBatch:
    """A small batch of six users that any model of the spec can embed, the same in every process.

    User 0 has no events; the others have 1, 5, 5, 5 and more events than the attention looks back, in turn over the sources. Ids are
    known, unknown and null; numbers too.
    """
    layout = spec.layout()
    columns, widths = {}, layout.column_widths()
    for turn, source in enumerate(spec.sources):
        lengths = np.array([0, *np.roll([1, 5, 5, 5, spec.attention_window(source) + 3], turn)])
        offsets = np.concatenate([[0], lengths.cumsum()])
        step = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        left = np.repeat(lengths, lengths) - step  # events from here to the user's last: counts down to 1
        known_at_ms = PROBE_MS - left * 5_000_000 + step % 7 * 600_000
        for place, (name, kind) in enumerate(layout.columns().items()):
            _, _, attribute = name.partition("__")
            if not name.startswith(f"{source}__"):
                continue
            varied = (step + 1 + 31 * turn) * 7919 + place  # a prime: no stride repeats a few ids only
            if attribute == "known_at_ms":
                columns[name] = Jagged(offsets, known_at_ms)
            elif attribute == "event_time_ms":
                columns[name] = Jagged(offsets, known_at_ms - step % 3 * 1_000_000)
            elif kind == "categorical":
                known = vocabulary.entries[attribute][0] if attribute in vocabulary.entries else np.zeros(0, np.int64)
                columns[name] = Jagged(offsets, np.append(known, 0)[varied % (len(known) + 1)], varied % 11 != 0)
            elif kind == "numeric":
                columns[name] = Jagged(offsets, (varied * 37 % 101 - 50) / 3, varied % 7 != 0)
            else:
                wide = varied[:, None] * (37 + 2 * np.arange(widths[name])) % 101
                values = wide if kind == "text" else np.where(varied[:, None] % 7 != 0, wide / 50 - 1, np.nan)
                columns[name] = Jagged(offsets, values)
    users = [f"probe {number}" for number in range(6)]
    return jagged_batch(users, [""] * 6, np.full(6, PROBE_MS), columns, layout, vocabulary)


@dataclass(frozen=True)
class Package:
    """A compiled block as bytes, and for which machines it was compiled."""

    content: bytes
    machine: str


@dataclass(frozen=True, eq=False)
class Export:
    """What travels to the workers."""

    artifact: Artifact  # the user sub-graph only
    config: InferenceConfig
    expected: np.ndarray  # (6, D) float32: the probe's embeddings by the driver, eager, float32
    package: Package | None
    key: str  # names the content: equal keys embed alike


def exported(artifact: Artifact, config: InferenceConfig) -> Export:
    """The export of a model, made on the driver. Compiles where config.compile asks for it: half a minute on an idle core.

    `auto` keeps the compiled block where it is faster on this machine, and stays eager where there is no C++ compiler. Raises ConfigError
    when `always` finds none, DataError when the compiled block differs from the eager one.
    """
    slim = replace(artifact, readout=b"", facts={})
    eager = UserEmbedder(slim, replace(config, precision="float32"))
    expected = eager.embed(probe(eager.spec, eager.vocabulary))
    package = None
    if config.compile == "always" or (config.compile == "auto" and _has_compiler()):
        package = compiled(slim, config)
    elif config.compile == "auto":
        logger.warning("inference.compile is auto, but there is no C++ compiler %s here: the model runs eagerly", _compiler())
    content = hashlib.sha256(slim.digest.encode() + repr(config).encode() + (package.content if package else b""))
    export = Export(slim, config, expected, package, content.hexdigest())
    if package and config.compile == "auto":
        seconds = _seconds(UserEmbedder(slim, config), checked(export))
        logger.info("embedding a sample took %.3f s eagerly and %.3f s with the compiled block", *seconds)
        if seconds[1] >= seconds[0]:
            return replace(export, package=None)
    elif package:
        checked(export)
    return export


def checked(export: Export) -> UserEmbedder:
    """The embedder, verified here against what the driver found. Raises DataError above 1e-5 of difference.

    A package of another machine (CPU flags, torch) is left aside: its instructions may not exist here.
    """
    package = export.package
    if package and package.machine != machine():
        logger.warning("the block was compiled for another CPU or torch than this worker's: the model runs eagerly here")
        package = None
    embedder = UserEmbedder(export.artifact, export.config, package)
    found = embedder.embed(probe(embedder.spec, embedder.vocabulary))
    # NaN is a difference too.
    difference = np.abs(found.astype(np.float64) - export.expected).max()
    if not difference <= TOLERANCE:
        raise DataError(
            f"the user model on {platform.node()} differs from the exported model by {difference:.2g} (allowed {TOLERANCE}): install the "
            "driver's versions of torch and numpy on the workers, or set inference.compile=never"
        )
    return embedder


def machine() -> str:
    """What compiled code depends on: architecture, the CPU's flags and torch's version."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    flags = {line.partition(":")[2] for line in info.splitlines() if line.startswith(("flags", "Features"))}
    return f"{platform.system()} {platform.machine()} {torch.__version__} {hashlib.sha256(repr(sorted(flags)).encode()).hexdigest()[:12]}"


class _Rest(nn.Module):
    """CausalModule._rest (norm, feed-forward, skips) as a function of its weights, so that one package serves all layers and sources.

    It is the one per-token block with something to fuse: the others are a bare gather or matrix product. Measured with AVX-512: a fifth
    faster alone, level (0.94 to 1.02 of the eager seconds) in the model, whose chunks stay in the cache anyway: the default is `never`.
    """

    def __init__(self, layer: CausalModule) -> None:
        super().__init__()
        self.inner = [_Call(layer)]  # in a list: its weights are inputs, not constants of the package

    def forward(self, x: Tensor, attended: Tensor, weights: dict[str, Tensor]) -> Tensor:
        result: Tensor = functional_call(self.inner[0], weights, (x, attended))
        return result


class _Call(nn.Module):
    def __init__(self, layer: CausalModule) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        return self.layer._rest(x, attended)


def _rest_weights(layer: CausalModule) -> dict[str, Tensor]:
    parts = ("forward_norm", "feed_forward")
    return {f"layer.{name}": value.detach() for name, value in layer.named_parameters() if name.startswith(parts)}


def compiled(artifact: Artifact, config: InferenceConfig) -> Package:
    """The block of all layers and sources, for any number of tokens, by AOTInductor. Raises ConfigError where it cannot be compiled."""
    if not _has_compiler():
        raise ConfigError(
            f"inference.compile is {config.compile!r}, but there is no C++ compiler {_compiler()} here: install g++, set CXX, or set "
            "inference.compile=never"
        )
    embedder = UserEmbedder(artifact, config)
    layer = _layers(embedder.encoder)[0]
    dtype, width = embedder.encoder.item_vectors.dtype, artifact.spec.config.dimension
    weights = {name: value.clone() for name, value in _rest_weights(layer).items()}
    # Two tensors, not one given twice: a package made from one reads one input for both.
    example = (*(torch.empty(37, width, dtype=dtype).normal_() for _ in range(2)), weights)
    tokens = torch.export.Dim("tokens", min=1)
    shapes = ({0: tokens}, {0: tokens}, dict.fromkeys(weights))
    try:
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            program = torch.export.export(_Rest(layer).eval(), example, dynamic_shapes=shapes)
            path = torch._inductor.aoti_compile_and_package(program, package_path=f"{folder}/rest.pt2")
            return Package(Path(path).read_bytes(), machine())
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ConfigError(f"the model could not be compiled ({type(error).__name__}: {reason}): set inference.compile=never") from error


def _install(encoder: UserEncoder, package: Package) -> None:
    """Puts the compiled block in the place of each layer's own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rest.pt2")
        path.write_bytes(package.content)
        block = torch._inductor.aoti_load_package(str(path))
    for layer in _layers(encoder):
        layer._rest = _bound(block, _rest_weights(layer))  # type: ignore[method-assign, assignment]


def _bound(block: Any, weights: dict[str, Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def rest(x: Tensor, attended: Tensor) -> Tensor:
        return block(x, attended, weights) if len(x) else x

    return rest


def _layers(encoder: UserEncoder) -> list[CausalModule]:
    return [module for module in encoder.modules() if isinstance(module, CausalModule)]


def _compiler() -> str:
    from torch._inductor import config  # slow to import, and needed by those only who compile

    return str(config.cpp.cxx[-1])


def _has_compiler() -> bool:
    return shutil.which(_compiler()) is not None


def _seconds(*embedders: UserEmbedder) -> list[float]:
    """CPU seconds of each on one sample, alternating, the best of five."""
    sample = probe(embedders[0].spec, embedders[0].vocabulary)
    sample = select_users(sample, torch.arange(len(sample)).repeat(1 + TIMED_TOKENS // sample.tokens()))
    best = [float("inf")] * len(embedders)
    for _ in range(5):
        for number, embedder in enumerate(embedders):
            began = time.process_time()
            embedder.embed(sample)
            best[number] = min(best[number], time.process_time() - began)
    return best
