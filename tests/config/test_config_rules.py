"""Ranges are declared in the types of settings: a rule reaches every key and item, and no number goes without one unseen."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Annotated

import pytest

from alure_spark.config import Config, ExperimentConfig, FeaturePolicy, IngestConfig, Since, StreamConfig, as_dict
from alure_spark.config.rules import OneOf, PositiveInt, Range, Rule, check
from alure_spark.config.section import hints
from alure_spark.errors import ConfigError

SETTLED = "2026-01-01"
# Numbers that have no bounds of their own: compared with other settings, or of any size.
WITHOUT_RANGE = {
    "LabelConfig.days", "ModelConfig.read_layers", "TrainingConfig.calibration_range", "DynamixConfig.buffer_seconds",
    "DynamixConfig.dwell_min_ms", "DynamixConfig.dwell_max_ms", "DynamixConfig.compare_seeds", "DynamixConfig.thresholds",
    "RetrievalConfig.event_weights", "RetrievalConfig.account_weights", "EvaluateConfig.min_items", "EvaluateConfig.new_user_events",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Plain:
    old: int = 1
    new: Annotated[int, Since("2026-02-01")] = 2
    made: Annotated[Mapping[str, int], Since("2026-02-01")] = dataclasses.field(default_factory=dict)


def sections(cls: type) -> list[type]:
    """The class, and those that its fields hold."""
    held = [hint for hint in hints(cls).values() if dataclasses.is_dataclass(hint)]
    return [cls, *(inner for one in held for inner in sections(one))]


def parts(hint: object) -> list[object]:
    """A type with all that it is made of, annotations too."""
    inner = [*typing.get_args(hint), *getattr(hint, "__metadata__", ())]
    return [hint, *(part for one in inner for part in parts(one))]


@pytest.mark.parametrize(
    ("hint", "value", "said"),
    [
        (PositiveInt, 0, "here is 0; allowed: an integer of at least 1"),
        (tuple[PositiveInt, ...], (1, 0), "here[1] is 0; allowed: an integer of at least 1"),
        (Mapping[str, Mapping[str, PositiveInt]], {"a": {"b": 0}}, "here.a.b is 0; allowed: an integer of at least 1"),
        (Mapping[Annotated[str, OneOf(("a", "b"))], int], {"c": 0}, "here is 'c'; allowed: a, b"),
        (Annotated[float, Range("above 0, at most 1", above=0, most=1)], float("nan"), "here is nan; allowed: above 0, at most 1"),
        (PositiveInt | None, 0, "here is 0; allowed: an integer of at least 1"),
    ],
)
def test_a_rule_in_a_type_reaches_keys_and_items_and_says_where(hint, value, said):
    with pytest.raises(ConfigError) as error:
        check(hint, value, "here")
    assert str(error.value) == said


def test_none_is_allowed_where_the_type_says_so():
    check(PositiveInt | None, None, "here")


@pytest.mark.parametrize("bounds", [{"least": 0, "most": 1}, {"above": 0, "below": 1}])
def test_the_ends_of_a_range_are_in_it_or_not(bounds):
    rule: Rule = Range("said", **bounds)
    rule("here", 0.5)
    for end in (0, 1):
        if "least" in bounds:
            rule("here", end)
        else:
            with pytest.raises(ConfigError, match=f"here is {end}; allowed: said"):
                rule("here", end)


def test_every_number_has_a_range_or_is_named_here():
    found = set()
    for section in [*sections(Config), StreamConfig, FeaturePolicy, ExperimentConfig]:
        for name, hint in hints(section).items():
            inside = parts(hint)
            if (int in inside or float in inside) and not any(isinstance(part, Range | OneOf) for part in inside):
                found.add(f"{section.__name__}.{name}")
    assert found == WITHOUT_RANGE


def test_a_setting_that_came_later_counts_once_it_is_not_at_its_default():
    assert as_dict(Plain()) == {"old": 1, "new": 2, "made": {}}
    assert as_dict(Plain(), SETTLED) == {"old": 1}
    assert as_dict(Plain(new=3, made={"a": 1}), SETTLED) == {"old": 1, "new": 3, "made": {"a": 1}}
    assert as_dict(Plain(), "2026-02-01") == {"old": 1, "new": 2, "made": {}}, "a digest of that day has counted it from the start"


def test_a_section_that_is_made_in_code_is_checked_too():
    with pytest.raises(ConfigError, match=r"ingest.utc_offset_minutes.SE is 900; allowed: -840 to 840"):
        dataclasses.replace(IngestConfig(), utc_offset_minutes={"SE": 900})
