"""May a new model take the champion's place? Both are judged on the same validation split, each with its own vocabulary."""

from __future__ import annotations

from typing import NamedTuple

from ..config import TrainingConfig
from ..model.artifact import Artifact
from ..model.decode import Layout
from .loader import Loader
from .loop import Calendar, Evaluation, evaluate


class Verdict(NamedTuple):
    passed: bool
    reason: str  # one sentence for MLflow and the terminal


def judge(champion: Artifact | None, found: Evaluation, loader: Loader, when: Calendar, config: TrainingConfig) -> Verdict:
    """Passed unless the champion's weighted validation loss is lower by more than config.gate of it.

    A champion that was trained up to a later as_of stays: it has seen this validation split. One whose sources or attributes
    are not those of the packed rows cannot be compared and gives way.
    """
    if champion is None:
        return Verdict(True, "champion: there was none")
    if champion.facts["as_of_ms"] > when.end_ms:
        return Verdict(False, f"not champion: {champion.model_id} was trained up to a later time")
    model, vocabulary = champion.model()
    layout = Layout(champion.spec.sources, champion.spec.impression_attributes, champion.spec.widths)
    packed = loader.layout.columns() | loader.layout.impression_columns()
    fits = (layout.columns() | layout.impression_columns()).items() <= packed.items()
    if not fits or not layout.column_widths().items() <= loader.layout.column_widths().items():
        return Verdict(True, f"champion: {champion.model_id} reads other sources or attributes, so it cannot be compared")
    theirs = Loader(loader.reader, layout, vocabulary, loader.batch_users, loader.seed, loader.segment)
    old = evaluate(model, theirs, when.validation(), config.objectives)
    ours, before = found.total(config.objectives), old.total(config.objectives)
    passed = ours <= before + config.gate * abs(before)
    return Verdict(passed, f"{'' if passed else 'not '}champion: validation loss {ours:.4f}, {champion.model_id} has {before:.4f}")
