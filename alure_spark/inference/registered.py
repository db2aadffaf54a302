"""The user model in MLflow's registry: which version a conf names, the one to go on from, and how a new one gets there.

So do the quantizers of given embeddings, each under a name of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..clock import format_time, parse_time
from ..config import Config
from ..errors import TrackingError
from ..lake import make_private, scratch_folder, workspace
from ..model import semantic_ids
from ..model.artifact import VALIDATED, Artifact
from ..model.retrieval_head import HeadArtifact
from ..ranking.artifact import RankingArtifact
from ..tracking import Columns, ModelVersion, Tracker
from . import head_pyfunc, pyfunc, ranking_pyfunc, semantic_pyfunc

CHAMPION, AS_OF = "champion", "alure.as_of"


def registered(config: Config, tracker: Tracker) -> ModelVersion:
    """Where the registered model lies that embedding.model names; for the champion: that of time.as_of, where there is one.

    Raises TrackingError where there is none.
    """
    which = config.embedding.model
    found = champion_at(config, tracker) if which == CHAMPION else None
    found = found or tracker.find_model(config.model_name, which)
    if found is None:
        raise TrackingError(
            f"MLflow at {tracker.place} has no model {config.model_name} with alias or version '{which}': run jobs/train_model.py first"
        )
    return found


def champion_at(config: Config, tracker: Tracker, name: str = "") -> ModelVersion | None:
    """The champion of time.as_of, of the user model or of another name.

    What the alias names, or, where that has learnt from later days, the newest that passed its gate by then. So a day that is run again
    has the model that it had.
    """
    name = name or config.model_name
    now = tracker.alias_tags(name, CHAMPION)
    if now is None or _as_of_ms(now[1]) <= config.time.as_of_ms:
        return tracker.find_model(name, now[0]) if now else None
    return _newest_passed(name, tracker, config.time.as_of_ms)


def champion(config: Config, tracker: Tracker) -> Artifact:
    """The registered model that embedding.model names, its digest checked. Raises TrackingError where there is none."""
    found = registered(config, tracker)
    return Artifact.read(found.folder, found.digest)


def earlier_champion(config: Config, tracker: Tracker) -> Artifact | None:
    """The newest registered model that passed its gate and was trained for an earlier as_of; a rerun goes on from where the run did."""
    found = _newest_passed(config.model_name, tracker, config.time.as_of_ms - 1)
    return Artifact.read(found.folder, found.digest) if found else None


def earlier_ranking_champion(config: Config, tracker: Tracker) -> RankingArtifact | None:
    """The ranking model that `earlier_champion` would be."""
    found = _newest_passed(config.ranking_name, tracker, config.time.as_of_ms - 1)
    return RankingArtifact.read(found.folder, found.digest) if found else None


def ranking_origin(config: Config, tracker: Tracker) -> RankingArtifact | None:
    """The ranking model from which training begins: with ranking.warm_start the earlier one, with ranking.upstream the one that it names.

    Raises TrackingError where what ranking.upstream names is not there; without a version, where it has no champion of time.as_of.
    """
    upstream = config.ranking.upstream
    if not upstream.model:
        return earlier_ranking_champion(config, tracker) if config.ranking.warm_start else None
    which = upstream.version
    version = tracker.find_model(upstream.model, which) if which else champion_at(config, tracker, upstream.model)
    if version is None:
        what = f"no version {which}" if which else f"no champion trained up to time.as_of={config.time.as_of}"
        raise TrackingError(
            f"MLflow at {tracker.place} has {what} of {upstream.model}, which ranking.upstream.model names: run jobs/train_ranking.py with "
            "that model's conf first"
        )
    return RankingArtifact.read(version.folder, version.digest)


def promote(config: Config, tracker: Tracker, version: str, name: str = "") -> str:
    """Let the alias of the user model, or of another name, name the version, unless it names one that has learnt from later days.

    Returns what to say of that, else empty.
    """
    name = name or config.model_name
    now = tracker.alias_tags(name, CHAMPION)
    if now is not None and _as_of_ms(now[1]) > config.time.as_of_ms:
        return f" of its day; the alias stays at version {now[0]}, trained up to {now[1][AS_OF]}"
    tracker.promote(name, version, CHAMPION)
    return ""


def _newest_passed(name: str, tracker: Tracker, until_ms: int) -> ModelVersion | None:
    passed = list[tuple[int, int]]()
    for version, tags in tracker.model_versions(name).items():
        if tags.get("alure.gate", "").startswith("champion") and AS_OF in tags:
            passed.append((_as_of_ms(tags), int(version)))
    passed = [one for one in passed if one[0] <= until_ms]
    return tracker.find_model(name, str(max(passed)[1])) if passed else None  # of a day that was run again the last


def _as_of_ms(tags: Mapping[str, str]) -> int:
    """Up to when the version was trained; models that somebody else registered do not say, and 0 lets them be read."""
    return parse_time(tags[AS_OF]) if AS_OF in tags else 0


def register(
    config: Config, tracker: Tracker, artifact: Artifact, validated: Artifact | None, tags: Mapping[str, str], scratch_name: str
) -> str:
    """A new version of the conf's model; its number. validated: the twin that has not seen the validation split, which lies beside it."""
    with scratch_folder(workspace(config.lake), scratch_name) as folder:
        written = artifact.write(folder)
        if validated:
            validated.write(written / VALIDATED)
        make_private(folder)
        columns = Columns(pyfunc.REQUIRED, pyfunc.optional_columns(artifact.spec), pyfunc.OUTPUTS)
        return tracker.log_model(config.model_name, written, pyfunc.__name__, artifact.digest, tags, columns)


def register_ranking(config: Config, tracker: Tracker, artifact: RankingArtifact, tags: Mapping[str, str], scratch_name: str) -> str:
    """A new version of the conf's ranking model; its number."""
    with scratch_folder(workspace(config.lake), scratch_name) as folder:
        written = artifact.write(folder)
        make_private(folder)
        columns = Columns(ranking_pyfunc.REQUIRED, ranking_pyfunc.optional_columns(artifact.spec), ranking_pyfunc.outputs(artifact.spec))
        return tracker.log_model(config.ranking_name, written, ranking_pyfunc.__name__, artifact.digest, tags, columns)


def publish_learnt(config: Config, tracker: Tracker, artifact: RankingArtifact, passed: bool, reason: str) -> str:
    """A ranking model that has learnt through the day becomes champion, as a new version, where it passed the gate; what to say of it."""
    if not passed:
        return f"; {reason}"
    tags = {"alure.model_id": artifact.model_id, AS_OF: format_time(artifact.as_of_ms), "alure.gate": reason}
    version = register_ranking(config, tracker, artifact, tags, f"{config.name}-ranking-online.model")
    stays = promote(config, tracker, version, config.ranking_name)
    return f"; {reason}; {config.ranking_name} version {version} ({artifact.model_id}){stays}"


def ranking_champion(config: Config, tracker: Tracker) -> RankingArtifact:
    """The ranking model of time.as_of, its digest checked. Raises TrackingError where there is none."""
    return ranking_version(config, tracker)[1]


def ranking_version(config: Config, tracker: Tracker, version: str = "") -> tuple[str, RankingArtifact]:
    """Number and ranking model of a version, by default of the champion of time.as_of. Raises TrackingError where there is none."""
    name = config.ranking_name
    found = tracker.find_model(name, version) if version else champion_at(config, tracker, name)
    if found is None:
        what = f"version {version}" if version else "champion"
        raise TrackingError(f"MLflow at {tracker.place} has no {what} of {name}: run jobs/train_ranking.py first")
    return found.version, RankingArtifact.read(found.folder, found.digest)


def register_quantizer(config: Config, tracker: Tracker, attribute: str, model: semantic_ids.SemanticIds) -> tuple[str, str]:
    """A new version of the quantizer of an embedding attribute, which train_model reads from now on: (version, digest)."""
    name = config.semantic_ids_name(attribute)
    with scratch_folder(workspace(config.lake), f"{name}-{config.digest()}") as scratch:
        folder = semantic_ids.write(model, Path(scratch))
        make_private(scratch)
        digest, tags = semantic_ids.digest(folder), {AS_OF: config.time.as_of, "alure.attribute": attribute}
        columns = Columns(semantic_pyfunc.REQUIRED, (), semantic_pyfunc.OUTPUTS)
        version = tracker.log_model(name, folder, semantic_pyfunc.__name__, digest, tags, columns)
    tracker.promote(name, version)
    return version, digest


def register_head(config: Config, tracker: Tracker, artifact: HeadArtifact) -> str:
    """A new version of the head of standalone retrieval, which becomes champion of its day; what to say of it."""
    name, gate = config.retrieval_name, "champion: a head has no gate"
    with scratch_folder(workspace(config.lake), f"{name}-{config.digest()}") as scratch:
        folder = artifact.write(Path(scratch))
        make_private(scratch)
        tags = {"alure.model_id": artifact.model_id, AS_OF: config.time.as_of, "alure.gate": gate}
        columns = Columns(head_pyfunc.REQUIRED, (), head_pyfunc.OUTPUTS)
        version = tracker.log_model(name, folder, head_pyfunc.__name__, artifact.digest, tags, columns)
    return f"{name} version {version} ({artifact.model_id}) of {artifact.upstream}{promote(config, tracker, version, name)}"


def head_of(config: Config, tracker: Tracker, upstream: str) -> tuple[HeadArtifact | None, str]:
    """(the head of time.as_of, or None where it does not read vectors of the user model `upstream`; what to say of it)."""
    version = champion_at(config, tracker, config.retrieval_name)
    artifact = HeadArtifact.read(version.folder, version.digest) if version else None
    if artifact is None:
        return None, f"standalone retrieval: no head of {upstream} is registered yet, so there are no candidates of it"
    if artifact.upstream != upstream:
        return None, (
            f"standalone retrieval: head {artifact.model_id} was trained on vectors of {artifact.upstream}, but those of today are of "
            f"{upstream}; it is refused, so there are no candidates of it until jobs/train_retrieval.py has trained another one"
        )
    return artifact, f"standalone retrieval: head {artifact.model_id} of {upstream}"
