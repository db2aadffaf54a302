from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name

from alure_spark.tracking.names import LONGEST, Names, as_number, as_text, clean, clean_file

ODD = [
    "Korea, Republic of", "Côte d'Ivoire", "", ".", "..", "../x", "/x", "x/", "a//b", "./a", "a/../b", "🇰🇷", "a\n", "a\x00b", "\ud800",
    "x" * 300, "x" * 242 + "/" + "y" * 50, "대한민국", "a=b;c", 'say "hi"', "C:\\x", "%2e%2e", " ", "#1", "recall.", "recall..",
    "a:b", None, 7,
]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_a_clean_name_is_one_that_mlflow_takes(name):
    for short in (clean(name), clean(f"build_graph.recall.{name}")):
        for check in (_validate_metric_name, _validate_param_name, _validate_tag_name):
            check(short)
        assert 0 < len(short) <= LONGEST


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=20) | st.sampled_from([str(name) for name in ODD]), unique=True, max_size=8))
def test_names_stay_apart_whatever_their_order_and_a_good_name_stays_as_it_is(names):
    found = Names().of(names)
    assert len(set(found.values())) == len(names)
    assert found == Names().of(reversed(names))
    for short in found.values():
        _validate_metric_name(short)
    for name in ("build_graph.recall.Germany", "train_model.epoch.train.click", "alure.content.events", "a b/c:d-e_f.g"):
        assert clean(name) == name


def test_two_names_that_would_be_cleaned_to_one_keep_their_own_for_the_whole_run():
    names = Names()
    first = names.of(["A,B", "A;B", "A_B"])
    assert first["A_B"] == "A_B"
    assert names.of(["A;B"]) == {"A;B": first["A;B"]}
    later = names.of(["A!B", "A_B"])
    assert later["A_B"] == "A_B"
    assert later["A!B"] not in first.values()


def test_a_file_name_is_one_that_every_file_system_takes_and_keeps_its_extension():
    for name in ODD:
        file = clean_file(f"job/{name}.png")
        assert file.startswith("job/")
        assert file.endswith(".png")
        assert ".." not in file.split("/")
        assert all(len(part.encode()) <= 255 for part in file.split("/"))
    assert clean_file("build_graph/map.png") == "build_graph/map.png"


def test_a_value_that_is_no_number_becomes_nan_or_infinity_and_a_text_can_always_be_stored():
    assert as_number(10**400) == float("inf")
    assert as_number(-(10**400)) == float("-inf")
    assert as_number("x") != as_number("x")
    assert as_number(True) == 1.0
    assert as_text("a\ud800\x00b", 3) == "a?b"
