"""Heat maps that say what was measured: names, places, what may be chance."""

from __future__ import annotations

import io

import numpy as np
import pytest
from pyspark.sql import functions as F

from alure_spark.analysis.feature_information import EVERY, OWN, Cells
from alure_spark.analysis.feature_report import INTERVAL_LABELS, category_names, feature_report, shown_rows
from alure_spark.batches.vocabulary import Vocabulary
from alure_spark.ranking.encodings.temporal_interest import INTERVALS_MS

POSITIONS, COLUMNS = 2, 2 + len(INTERVALS_MS) + 1
NAMES = {"seen": {3: "sp$ort$", 5: "a name of a category that nobody can read in a picture, 1"}}


def cells():
    """Targets all, 3; behaviours own, 3, 5. Own at the newest place tells all, 5 two ago and a day ago nothing; else nothing happened."""
    present, responded = np.zeros((2, 3, COLUMNS), np.int64), np.zeros((2, 1, 3, COLUMNS), np.int64)
    day = POSITIONS + INTERVAL_LABELS.index("1 day")
    for panel in range(2):
        for behaviour in (0, 1):
            present[panel, behaviour, 0], responded[panel, 0, behaviour, 0] = 400, 300
        present[panel, 2, [1, day]], responded[panel, 0, 2, [1, day]] = 200, 100
    equal = present * 0.5
    return Cells(
        np.array([EVERY, 3]), np.array([OWN, 3, 5]), POSITIONS, ("click",), ("wide",), np.array([1000, 600]), np.array([[500], [310]]),
        present, responded, 1.5 * equal[:, None], equal,
    )  # fmt: skip


def test_labels_of_intervals_are_read_at_a_glance():
    assert INTERVAL_LABELS[:7] == ["1 min", "5 min", "15 min", "30 min", "1 h", "2 h", "4 h"]
    assert INTERVAL_LABELS[9:11] == ["1 day", "2 days"]
    assert INTERVAL_LABELS[-2:] == ["1 year", "longer ago"]
    assert len(INTERVAL_LABELS) == len(set(INTERVAL_LABELS)) == len(INTERVALS_MS) + 1


def test_numbers_and_text_name_the_cells_above_chance_once():
    metrics, _, text = feature_report({"seen": cells()}, NAMES)
    # The target's own category stands in its panel as OWN alone: 400 + 400 of all, 400 of the target, and twice 2 of the other one.
    assert metrics["seen.click.cells"] == 2 + 2 + 1 + 2
    assert metrics["seen.click.cells_above_chance"] == 3
    assert metrics["seen.click.largest_bits"] == cells().information(0).bits.max()
    lines = text.splitlines()
    assert lines[0] == "seen, click: 3 of 7 cells are above chance, the strongest:"
    assert [line.split()[:5] for line in lines[2:]] == [
        ["sp$ort$", "own", "category", "1", "ago"],
        ["all", "own", "category", "1", "ago"],
        ["all", "sp$ort$", "1", "ago", "400"],
    ]
    assert lines[2].split()[5:8] == ["400", "0.75", "0.05"], "impressions with it, their rate, the rate of the others: 10 / 200"
    assert lines[2].split()[-2:] == ["0.75", "1.5"], "the mean weight 1.5 * 0.5, and its ratio to equal weights"


def test_pictures_grey_what_may_be_chance_and_leave_out_what_never_happened():
    _, figures, _ = feature_report({"seen": cells()}, NAMES)
    assert set(figures) == {"analyse_features/seen_click_position.png", "analyse_features/seen_click_interval.png"}
    figure = figures["analyse_features/seen_click_position.png"]
    every, attention, target = figure.axes[:3]
    assert every.get_title("left") == "all targets: 1,000 impressions, 50.00% click"
    assert target.get_title("left") == "target sp$ort$: 600 impressions, 51.67% click"
    labels = [label.get_text() for label in every.get_yticklabels()]
    assert labels == ["the target's own category", "sp$ort$", "a name of a category th…"]
    assert [label.get_text() for label in target.get_yticklabels()] == [labels[0], labels[2]]
    grey, coloured = (image.get_array() for image in every.images)
    np.testing.assert_array_equal(~np.ma.getmaskarray(np.ma.masked_invalid(grey)), [[0, 0], [0, 0], [0, 1]])
    np.testing.assert_array_equal(~np.ma.getmaskarray(np.ma.masked_invalid(coloured)), [[1, 0], [1, 0], [0, 0]])
    assert coloured[0, 0] == pytest.approx(cells().information(0).bits[0, 0, 0])
    shown = np.ma.masked_invalid(attention.images[1].get_array())
    np.testing.assert_allclose(shown.compressed(), 1.5)
    interval = figures["analyse_features/seen_click_interval.png"].axes
    assert [label.get_text() for label in interval[2].get_xticklabels()] == ["1 day"]
    for figure in figures.values():
        figure.savefig(io.BytesIO())


def test_a_model_without_sequences_says_so():
    assert feature_report({}, {}) == ({}, {}, "the model reads no sequence (ranking.sequences)")


def test_names_are_raw_where_an_event_told_them_and_hashes_elsewhere(spark):
    hashed = spark.range(1).select(F.xxhash64(F.lit("sport")), F.xxhash64(F.lit("war"))).collect()[0]
    vocabulary = Vocabulary.from_arrays(np.array(["category"] * 2, object), np.array(hashed), np.array([3, 5]), buckets=2)
    events = spark.createDataFrame([("sport",), ("sport",), ("other",), (None,)], "category string")
    wanted = {3: "sport", 5: f"hash {hashed[1]}", 2: "ids of row 2"}
    assert category_names(events, "category", vocabulary, "category", [3, 5, 2]) == wanted
    assert category_names(events, "none", vocabulary, "category", [3]) == {3: f"hash {hashed[0]}"}
    assert category_names(events, "category", vocabulary, "category", []) == {}
    assert list(shown_rows(cells())) == [3, 5]
