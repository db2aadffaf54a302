"""A tracking store on SQLite in a folder."""

from __future__ import annotations

from alure_spark.config import Config, StreamConfig, TrackingConfig
from alure_spark.tracking import Tracker

CONFIG = Config(streams={"purchase": StreamConfig()})


def tracker(tmp_path, uri=None):
    return Tracker(TrackingConfig(uri or f"sqlite:///{tmp_path}/m.db", "e", f"{tmp_path}/artifacts", f"{tmp_path}/untracked"))
