"""How several tasks share the ranking model (ranking.scheme, .main_task, .towers): one sentence for what cannot be.

The conf and the spec of a saved model are checked by the same functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import ConfigError, shown
from .rules import require_known

SCHEMES = ("shared_bottom", "mmoe", "ple", "stem", "ame", "stem_al")  # of alure_spark/ranking/schemes
AUXILIARY_LEARNING = "stem_al"  # the scheme with a main task


def check_scheme(path: str, name: str) -> None:
    """One of SCHEMES."""
    require_known(path, name, SCHEMES, "scheme")


def tasks_of_towers(towers: Mapping[str, Sequence[str]], tasks: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Tower -> its tasks, in the order of the tasks; a task that no tower names has one to itself, called as the task."""
    tower_of = {task: tower for tower, its in towers.items() for task in its}
    found: dict[str, tuple[str, ...]] = {}
    for task in tasks:
        tower = tower_of.get(task, task)
        found[tower] = (*found.get(tower, ()), task)
    return found


def check_towers(
    scheme: str, main_task: str, towers: Mapping[str, Sequence[str]], tasks: Sequence[str], left_out: Sequence[str] = ()
) -> None:
    """left_out: auxiliary towers that a saved model no longer has. Raises ConfigError."""
    tower_of: dict[str, str] = {}
    for tower, its in towers.items():
        path = f"ranking.towers.{tower}"
        if not its:
            raise ConfigError(f"{path} is empty; allowed: at least one task")
        for task in its:
            require_known(path, task, tasks, "task")
            if task in tower_of:
                where = f"the towers '{tower_of[task]}' and '{tower}'" if tower_of[task] != tower else f"the tower '{tower}' twice"
                raise ConfigError(f"ranking.towers has the task '{task}' in {where}; allowed: one tower per task")
            tower_of[task] = tower
    for task in tasks:
        if task in towers and tower_of.get(task) is None:
            raise ConfigError(
                f"ranking.towers has a tower '{task}' without the task of that name, which has a tower to itself: call it otherwise"
            )
    if scheme != AUXILIARY_LEARNING:
        if main_task:
            raise ConfigError(f"ranking.main_task is {shown(main_task)}; allowed: none, as the scheme '{scheme}' treats all tasks alike")
        return
    if not main_task:
        raise ConfigError(f"ranking.main_task is empty; allowed with the scheme '{scheme}': one of {', '.join(tasks)}")
    require_known("ranking.main_task", main_task, tasks, "task")
    if len(tasks_of_towers(towers, tasks)) + len(left_out) < 2:
        raise ConfigError(
            f"ranking.scheme is '{scheme}', but there is no task in another tower than the main one; allowed: with an auxiliary task"
        )


def served_tasks(scheme: str, main_task: str, towers: Mapping[str, Sequence[str]], tasks: Sequence[str]) -> tuple[str, ...]:
    """The tasks that a trained model still predicts: with a main task those of its tower."""
    if scheme != AUXILIARY_LEARNING:
        return tuple(tasks)
    return next(its for its in tasks_of_towers(towers, tasks).values() if main_task in its)


def check_scenario(field: str, encodings: Mapping[str, str]) -> None:
    """encodings: of each field. Raises ConfigError where the scenario is no field of ids."""
    if field:
        require_known("ranking.scenario", field, encodings, "field")
        if encodings[field] != "id":
            raise ConfigError(f"ranking.scenario is '{field}', whose encoding is {encodings[field]}; allowed: a field with the encoding id")


def check_values(path: str, values: Sequence[str], tasks: Sequence[str]) -> None:
    """values: tasks whose label is a number. Raises ConfigError where one is no task, or the column of its score is another task's."""
    for task in values:
        require_known(path, task, tasks, "task")
        if values.count(task) > 1:
            raise ConfigError(f"{path} names the task '{task}' twice; allowed: once")
        if expected_column(task) in tasks:
            raise ConfigError(
                f"{path} names '{task}', whose score is the column '{expected_column(task)}', as another task is called: rename one of them"
            )


def expected_column(task: str) -> str:
    """What the expected value of a task is called in tables of scores."""
    return f"expected_{task}"


def check_score(score: Mapping[str, str], served: Sequence[str], tasks: Sequence[str], values: Sequence[str] = ()) -> None:
    """Raises ConfigError where the score counts what is no task, one that only the training predicts, or a value by what an ad is worth."""
    for task, worth in score.items():
        require_known("ranking.score", task, tasks, "task")
        if task not in served:
            raise ConfigError(f"ranking.score names the auxiliary task '{task}', which the trained model no longer predicts")
        if task in values and worth in ("bid", "value"):
            raise ConfigError(
                f"ranking.score.{task} is '{worth}', but the task is a value already; allowed: a number in quotes by which its expected "
                "value is multiplied, e.g. '1'"
            )
