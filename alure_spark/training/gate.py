"""May a new model take the champion's place? Both are evaluated on the same validation split, each with its own vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..batches.epochs import Batches
from ..batches.layout import Layout
from ..batches.vocabulary import Vocabulary
from ..config import TrainingConfig
from ..model.artifact import Artifact
from ..model.spec import ModelSpec
from .user_evaluation import Evaluation, evaluate
from .user_training import Calendar

Decoding = Callable[[ModelSpec, Vocabulary], Batches]  # the packed rows as a model of that spec and vocabulary reads them


class Verdict(NamedTuple):
    passed: bool
    reason: str  # one sentence for MLflow and the terminal


def decide(
    champion: Artifact | None, found: Evaluation, packed: Layout, decoding: Decoding, when: Calendar, config: TrainingConfig
) -> Verdict:
    """Passed unless the champion's weighted validation loss is lower by more than config.gate of it.

    packed: the layout of the packed rows. A champion that was trained up to a later as_of stays: it has seen this validation split. One
    of other tasks, or whose sources or attributes are not those of the packed rows, cannot be compared and gives way.
    """
    if champion is None:
        return Verdict(True, "champion: there was none")
    if champion.as_of_ms > when.end_ms:
        return Verdict(False, f"not champion: {champion.model_id} was trained up to a later time")
    if set(champion.spec.tasks) != set(found.tasks):
        return Verdict(True, f"champion: {champion.model_id} predicts {', '.join(champion.spec.tasks)}, so it cannot be compared")
    layout, there = champion.spec.layout(impressions=True), packed.columns() | packed.impression_columns()
    fits = (layout.columns() | layout.impression_columns()).items() <= there.items()
    if not fits or not layout.column_widths().items() <= packed.column_widths().items():
        return Verdict(True, f"champion: {champion.model_id} reads other sources or attributes, so it cannot be compared")
    model, vocabulary = champion.model()
    old = evaluate(model, decoding(champion.spec, vocabulary), when.validation(), config.objectives)
    ours, before = found.total(config.objectives), old.total(config.objectives)
    passed = ours <= before + config.gate * abs(before)
    return Verdict(passed, f"{'' if passed else 'not '}champion: validation loss {ours:.4f}, {champion.model_id} has {before:.4f}")


def calibrated(verdict: Verdict, carried: Mapping[str, float | None], config: TrainingConfig) -> Verdict:
    """The verdict, but not passed where a task's expected over observed positives leave config.calibration_range."""
    low, high = config.calibration_range
    for name, found in carried.items():
        task, _, metric = name.rpartition(".")
        if metric == "calibration" and verdict.passed and found is not None and not low <= found <= high:
            return Verdict(False, f"not champion: {task} expects {found:.2f} times the observed positives, allowed {low:g} to {high:g}")
    return verdict
