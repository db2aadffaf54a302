"""Recurring training of the ranking model: an earlier one goes on with what is new to it (ranking.warm_start).

Enters: the earlier model, the spec of today before its encodings are fitted, packed rows. Leaves: its weights in today's shapes, and
batches in which only new impressions are learnt from. Ids keep their rows and new ones get some (ranking/growth.py). Encodings stay as
they were fitted, for a weight means what its step or its standardized number meant: a number beyond the old range has the row for that.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..batches.batch import JaggedBatch
from ..batches.epochs import Batches, ChangedBatches
from ..batches.vocabulary import Vocabulary
from ..config import Config, as_dict
from ..errors import ConfigError
from ..ranking import growth
from ..ranking.artifact import RankingArtifact
from ..ranking.network import RankingNetwork
from ..ranking.spec import DENSE, FieldSpec, RankingSpec
from .ranking_model import FITTED, drawn_network, start_at_base_rates

LEARNT_UNTIL = "learnt_until_ms"  # fact of a model: no step has learnt from impressions at or after that moment, epoch ms
EMBEDDINGS_OF = "embedding_model_id"  # fact of a model: whose user embeddings its fields read
READS = "reads"  # fact of a model: field -> what it reads
# Settings that leave shapes and the meaning of weights alone; those of fields are looked at first.
FREE, FIRST = ("deviation", "dropout"), ("scheme", "main_task", "towers", "tasks", "fields")
CONF_NAMES = {"settings": "options", "history": "reads"}  # what a spec calls otherwise than the conf


@dataclass(frozen=True)
class Earlier:
    """The model to go on from."""

    artifact: RankingArtifact
    network: RankingNetwork
    vocabulary: Vocabulary
    learnt_until_ms: int

    @classmethod
    def of(cls, artifact: RankingArtifact, config: Config, embeddings_of: str) -> Earlier:
        """embeddings_of: the model whose user embeddings fields read today. Raises ConfigError where it is not that of the earlier one."""
        before = str(artifact.facts.get(EMBEDDINGS_OF, ""))
        if before and embeddings_of and before != embeddings_of:
            raise ConfigError(
                f"ranking.warm_start goes on from {artifact.model_id}, which has learnt from user embeddings of {before}, but the newest "
                f"are of {embeddings_of}: their numbers mean other things; set ranking.warm_start to false"
            )
        known = artifact.facts.get(LEARNT_UNTIL, learnt_until(config, artifact.as_of_ms))
        return cls(artifact, *artifact.network(), int(known))

    def told(self) -> dict[str, str]:
        """What a model that goes on from it says of that."""
        return {"continues": self.artifact.model_id}


def facts_of(config: Config, embeddings_of: str) -> dict[str, Any]:
    """What a model says of itself so that a later training may go on from it."""
    known = {LEARNT_UNTIL: learnt_until(config, config.time.as_of_ms), EMBEDDINGS_OF: embeddings_of}
    known[READS] = {name: one.reads for name, one in config.ranking.fields.items()}
    known["seed"] = config.ranking.seed  # jobs/analyse_embeddings.py draws the rows before training from it
    return known


def learnt_until(config: Config, as_of_ms: int) -> int:
    """Before which moment the impressions lie that a training of as_of learns from, epoch ms."""
    labels = config.labels
    return as_of_ms - max(labels.validation_ms, labels.window_ms if labels.hold_back_immature else 0)


def grown_spec(earlier: RankingSpec, draft: RankingSpec, vocabulary: Vocabulary) -> RankingSpec:
    """The draft with the encodings of the earlier model, its fields of ids with the rows of the grown vocabulary.

    Raises ConfigError, which names the setting, where the draft differs from the earlier one in what decides the shapes or the meaning of
    weights. How many quantiles were asked for does not count where the earlier model has fewer: the values may not have had more.
    """
    theirs, ours = (_compared(one) for one in _asked(earlier, draft.served()))
    if sentence := next(_differences("ranking", theirs, ours), ""):
        raise ConfigError(f"{sentence} in the model that ranking.warm_start goes on from: undo that, or set ranking.warm_start to false")
    fields = {}
    for name, one in draft.fields.items():
        of_ids = {"size": vocabulary.size(draft.space_of(name))}
        fields[name] = replace(one, settings=of_ids if one.encoding == "id" else earlier.fields[name].settings)
    return replace(draft, fields=fields)


def continued(earlier: Earlier, spec: RankingSpec, loader: Batches, seed: int) -> RankingNetwork:
    """A network before its training: the weights of the earlier one, rows of new ids as the seed draws them.

    Towers of auxiliary tasks, which a model is registered without, start at their base rates in the training split of the loader.
    """
    network = growth.continued(earlier.network, drawn_network(spec, seed))
    if fresh := [task for task in spec.tasks if task not in earlier.network.spec.tasks]:
        start_at_base_rates(network, loader, fresh)
    return network


class NewImpressions(ChangedBatches):
    """A loader whose training split has the impressions at or after since_ms alone; validation is as it is."""

    def __init__(self, loader: Batches, since_ms: int) -> None:
        super().__init__(loader)
        self.since_ms = since_ms

    def changed(self, batch: JaggedBatch) -> JaggedBatch:
        shown = batch.impressions
        assert shown is not None
        return replace(batch, impressions=shown.select(shown.validation | (shown.time_ms >= self.since_ms)))


def _asked(earlier: RankingSpec, draft: RankingSpec) -> tuple[RankingSpec, RankingSpec]:
    """Both with the settings of encodings that a conf asks for, of the fields that both have."""
    theirs, ours = dict(earlier.fields), dict(draft.fields)
    for name in theirs.keys() & ours.keys():
        before, now = _settings(theirs[name]), _settings(ours[name])
        fitted = before.get("kind") == now.get("kind")
        if fitted and (now.get("kind") == "integer" or (now.get("kind") == "quantile" and before["steps"] <= now["steps"])):
            before["steps"] = now["steps"]
        theirs[name], ours[name] = replace(theirs[name], settings=before), replace(ours[name], settings=now)
    return replace(earlier, fields=theirs), replace(draft, fields=ours)


def _settings(one: FieldSpec) -> dict[str, Any]:
    """Those that a conf may ask for, with their defaults; not what was fitted, or is the vocabulary's."""
    if one.encoding == "id":
        return {}
    if one.encoding in FITTED:
        asked = inspect.signature(FITTED[one.encoding]).parameters.values()
        return {given.name: one.settings.get(given.name, given.default) for given in asked if given.default is not given.empty}
    return {"numbers": one.width, "adapter": one.adapter} if one.encoding in DENSE else as_dict(one.made())


def _compared(spec: RankingSpec) -> dict[str, Any]:
    plain = {name: value for name, value in as_dict(spec).items() if name not in FREE}
    ordered = {name: plain[name] for name in (*FIRST, *plain) if name in plain}
    result: dict[str, Any] = json.loads(json.dumps(ordered))  # tuples and lists are the same here
    return result


def _differences(path: str, theirs: Any, ours: Any) -> Iterator[str]:
    """What differs, each as the first half of a sentence; the order of keys counts, which is that of the weights' columns."""
    if not (isinstance(theirs, Mapping) and isinstance(ours, Mapping)):
        if theirs != ours:
            yield f"{path} is {ours!r}, but {theirs!r}"
        return
    for name in ours:
        if name not in theirs:
            yield f"{path} has '{name}', which is not"
    for name in theirs:
        if name not in ours:
            yield f"{path} lacks '{name}', which is"
    if list(theirs) != list(ours):
        yield f"{path} has the order {', '.join(ours)}, but {', '.join(theirs)}"
    for name, value in ours.items():
        if name in theirs:
            yield from _differences(f"{path}.{CONF_NAMES.get(name, name)}", theirs[name], value)
