"""A duration of the conf is rounded to milliseconds: cut, 8.2 hours would be a millisecond less than they are."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from alure_spark.clock import HOUR_MS
from alure_spark.config import LabelConfig

ROOT = Path(__file__).parent.parent
FILES = [path for folder in ("alure_spark", "jobs") for path in sorted((ROOT / folder).rglob("*.py"))]


def cut_durations(text: str) -> list[str]:
    """The calls int(... * X_MS)."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    calls = [call for call in calls if call.func.id == "int" and call.args and isinstance(call.args[0], ast.BinOp)]
    return [
        ast.unparse(call)
        for call in calls
        if isinstance(call.args[0].op, ast.Mult) and any(name.id.endswith("_MS") for name in ast.walk(call) if isinstance(name, ast.Name))
    ]


def test_windows_in_hours_and_days_are_whole_milliseconds():
    assert int(8.2 * HOUR_MS) == 29_519_999, "what a cut would make of it"
    assert LabelConfig(click_window_hours=8.2, conversion_window_hours=8.2).window_ms == 29_520_000
    assert LabelConfig(validation_days=8.2 / 24).validation_ms == 29_520_000


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_duration_is_cut(path):
    assert cut_durations(path.read_text()) == []


def test_the_check_sees_a_planted_fault():
    assert cut_durations("x = end - int(days * DAY_MS)") == ["int(days * DAY_MS)"]
