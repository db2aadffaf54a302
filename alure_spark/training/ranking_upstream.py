"""The ranking model whose interactions another one has beside its own (ranking.upstream; LFM4Ads, module level): whether it may be used.

Enters: the model as it is registered, and the conf of today. Leaves: its part of the spec, and its weights in a network of that spec.
It has learnt from nothing that today's model is validated on, and what it reads is declared today as it was then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..batches.vocabulary import Vocabulary
from ..clock import format_time
from ..config import Config, RankingConfig
from ..errors import ConfigError
from ..ranking.artifact import RankingArtifact
from ..ranking.network import RankingNetwork
from ..ranking.spec import RankingSpec, UpstreamSpec
from ..ranking.upstream import copy_interactions, upstream_spec
from .online import BEGAN_AS
from .ranking_growth import EMBEDDINGS_OF, LEARNT_UNTIL, READS, Earlier

WIDTHS = ("numbers", "words")  # settings of an encoding that say how many values an impression has


@dataclass(frozen=True)
class Upstream:
    """The other model, which has learnt from nothing that came later."""

    artifact: RankingArtifact
    network: RankingNetwork
    vocabulary: Vocabulary
    spec: UpstreamSpec

    @classmethod
    def of(cls, artifact: RankingArtifact, config: Config, embeddings_of: str) -> Upstream:
        """embeddings_of: the model whose user embeddings fields read today.

        Raises ConfigError, which names the setting, where the model has learnt from what came later, or from other embeddings.
        """
        require_learnt_before(artifact, config)
        before = str(artifact.facts.get(EMBEDDINGS_OF, ""))
        if before and embeddings_of and before != embeddings_of:
            raise ConfigError(
                f"ranking.upstream.model is {artifact.model_id}, which has learnt from user embeddings of {before}, but the newest are of "
                f"{embeddings_of}: their numbers mean other things; train that model for this as_of"
            )
        spec = upstream_spec(artifact.model_id, artifact.spec, config.ranking.upstream, config.ranking.dropout)
        return cls(artifact, *artifact.network(), spec)

    def require_fits(self, draft: RankingSpec, ranking: RankingConfig) -> None:
        """Raises ConfigError, which names the setting, where it reads what today's model does not read, or reads otherwise.

        draft: today's spec; its encodings may be fitted otherwise, for the other model's stay as they are.
        """
        if sentence := next(self._differences(draft, ranking), ""):
            raise ConfigError(f"{sentence}: change that, or name another model by ranking.upstream.model")

    def copy_into(self, network: RankingNetwork, vocabulary: Vocabulary) -> None:
        """vocabulary: by which the network reads ids."""
        copy_interactions(network, self.network, self.vocabulary, vocabulary)

    def told(self) -> dict[str, str]:
        """What a model that has its interactions says of that."""
        return {"upstream": self.artifact.model_id}

    def _differences(self, draft: RankingSpec, ranking: RankingConfig) -> Iterator[str]:
        """Each as a sentence without its end."""
        theirs, said = self.artifact.spec, f"{self.artifact.model_id}, which ranking.upstream.model names"
        if theirs.upstream is not None:
            yield f"{said}, has an upstream model itself, which is not supported"
        compared: list[tuple[str, Any, Any]] = [
            ("ranking.hidden", draft.hidden, theirs.hidden),
            ("ranking.hash_buckets", ranking.hash_buckets, self.vocabulary.buckets),
        ]
        for name in theirs.fields:
            if name not in draft.fields:
                yield f"ranking.fields lacks '{name}', which is read by {said}"
                continue
            compared += self._of_field(f"ranking.fields.{name}", name, draft, ranking)
        for name, sequence in theirs.sequences.items():
            if name not in draft.sequences:
                yield f"ranking.sequences lacks '{name}', which is read by {said}"
                continue
            mine, path = draft.sequences[name], f"ranking.sequences.{name}"
            compared += [(f"{path}.{key}", getattr(mine, key), getattr(sequence, key)) for key in ("source", "category", "target")]
        yield from (f"{path} is {now!r}, but {then!r} in {said}" for path, now, then in compared if now != then)

    def _of_field(self, path: str, name: str, draft: RankingSpec, ranking: RankingConfig) -> list[tuple[str, Any, Any]]:
        """(setting, as it is, as it was) of all that decides what an impression says of a field."""
        now, then = draft.fields[name], self.artifact.spec.fields[name]
        reads = ranking.fields[name].reads if name in ranking.fields else ""
        return [
            (f"{path}.encoding", now.encoding, then.encoding),
            (f"{path}.reads", reads, self.artifact.facts.get(READS, {}).get(name, reads)),
            (f"{path}.reads", now.history, then.history),
            (f"{path}.days", now.days, then.days),
            (f"{path}.space", draft.space_of(name), self.artifact.spec.space_of(name)),
            *((f"{path}.options.{width}", now.settings.get(width), then.settings.get(width)) for width in WIDTHS),
        ]


def start_of(origin: RankingArtifact | None, config: Config, embeddings_of: str) -> Earlier | Upstream | None:
    """From what a training begins beside its rows; origin: `inference.registered.ranking_origin`. Raises as the two do."""
    kind = Upstream if config.ranking.upstream.model else Earlier
    return kind.of(origin, config, embeddings_of) if origin else None


def require_learnt_before(artifact: RankingArtifact, config: Config) -> None:
    """Raises ConfigError where the model has learnt from what became known after as_of, or from impressions that validate today."""
    border_ms = config.time.as_of_ms - config.labels.validation_ms
    until_ms = artifact.as_of_ms if BEGAN_AS in artifact.facts else int(artifact.facts.get(LEARNT_UNTIL, artifact.as_of_ms))
    remedy = "name an older version by ranking.upstream.version, or train one"
    if artifact.as_of_ms > config.time.as_of_ms:
        raise ConfigError(
            f"ranking.upstream.model is {artifact.model_id}, which was trained on what became known after "
            f"time.as_of={config.time.as_of}: it would leak the future; {remedy} for this as_of"
        )
    if until_ms > border_ms:
        raise ConfigError(
            f"ranking.upstream.model is {artifact.model_id}, which has learnt from impressions up to {format_time(until_ms)}, but those "
            f"from {format_time(border_ms)} on validate this model: {remedy} that leaves out as many labels.validation_days"
        )
