"""Which registered model a day has, also when it is run again after later days."""

from __future__ import annotations

import pytest

from alure_spark.config import Config, EmbeddingConfig, StreamConfig, TimeConfig, TrackingConfig
from alure_spark.errors import TrackingError
from alure_spark.inference.registered import champion_at, promote, registered
from alure_spark.tracking import Columns, Tracker

COLUMNS = Columns(("user_id",), (), {"user_id": "string"})


def of(day: int, model: str = "champion") -> Config:
    return Config(
        streams={"purchase": StreamConfig()}, time=TimeConfig(as_of=f"2025-01-{day:02}T00:00:00Z"), embedding=EmbeddingConfig(model=model)
    )


@pytest.fixture
def train(tmp_path):
    """Registers what a training of the day would, as the verdict says, and what is said of the alias."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"1")
    tracker = Tracker(TrackingConfig(f"sqlite:///{tmp_path}/m.db", "e", f"{tmp_path}/artifacts", f"{tmp_path}/untracked"))

    def train(day: int, verdict: str = "champion: better") -> str:
        config = of(day)
        tags = {"alure.as_of": config.time.as_of, "alure.gate": verdict}
        loader, digest = "alure_spark.inference.pyfunc", f"of day {day}"
        with tracker.run("train_model", config):
            version = tracker.log_model(config.model_name, tmp_path / "model", loader, digest, tags, COLUMNS)
            return promote(config, tracker, version) if verdict.startswith("champion") else ""

    train.tracker = tracker
    return train


def test_a_day_that_is_run_again_has_its_own_champion_and_the_alias_stays_at_the_newest(train):
    tracker = train.tracker
    with pytest.raises(TrackingError, match="has no model .* with alias or version 'champion': run jobs/train_model.py first"):
        registered(of(3), tracker)
    assert [train(2), train(4, "not champion: worse"), train(5)] == ["", "", ""]
    days = (2, 4, 5, 9)
    assert [registered(of(day), tracker).digest for day in days] == ["of day 2", "of day 2", "of day 5", "of day 5"]
    assert train(3) == " of its day; the alias stays at version 3, trained up to 2025-01-05T00:00:00Z"
    assert [registered(of(day), tracker).version for day in (2, 3, 4, 5)] == ["1", "4", "4", "3"]
    assert train(3) == " of its day; the alias stays at version 3, trained up to 2025-01-05T00:00:00Z"
    assert registered(of(3), tracker).version == "5", "the newer of two of one day"
    assert train(5) == ""
    assert registered(of(5), tracker).version == "6"


def test_before_the_first_model_no_champion_is_evaluated_against_and_the_one_of_the_future_is_named(train):
    """embed_users refuses it by its as_of."""
    train(5)
    assert champion_at(of(1), train.tracker) is None
    assert registered(of(1), train.tracker).version == "1"


def test_an_alias_that_a_person_moved_back_and_a_version_by_its_number_are_taken_as_they_are(train):
    for day in (2, 5):
        train(day)
    train.tracker.promote(of(9).model_name, "1")
    assert registered(of(9), train.tracker).version == "1"
    assert registered(of(2, "2"), train.tracker).version == "2", "embed_users refuses it by its as_of"
