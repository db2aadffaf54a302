"""Adapters from somebody's data to the canonical tables `events`, `ads` and `follows` (see tables.py).

An adapter hands over frames with the canonical column names; it does not clean: ingestion does that for every source alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession

from ..config import SourceConfig, build
from ..errors import ConfigError, nearest


@dataclass(frozen=True)
class Canonical:
    """What an adapter hands over. A set without ads or follows leaves them None; one that is no set of mapped tables, `tables`."""

    events: DataFrame
    ads: DataFrame | None = None
    follows: DataFrame | None = None
    tables: DataFrame | None = None  # one row per mapped table: what was read of it, shaped as preflight.TableCounts


def read(spark: SparkSession, config: SourceConfig, batch: tuple[int, int] | None = None) -> Canonical:
    """The canonical frames of the configured source. Raises ConfigError on an unknown kind or option.

    batch: epoch ms [from, to) of known_at that will be asked for; an adapter may leave out events outside, so as to read less.
    """
    kinds: dict[str, Callable[[], Canonical]] = {
        "completejourney": lambda: _completejourney(spark, config),
        "synthetic": lambda: _synthetic(spark, config),
        "tables": lambda: _tables(spark, config, batch),
    }
    if config.kind not in kinds:
        raise ConfigError(f"source.kind is '{config.kind}'{nearest(config.kind, kinds)}")
    return kinds[config.kind]()


def _completejourney(spark: SparkSession, config: SourceConfig) -> Canonical:
    from . import completejourney

    return Canonical(*completejourney.canonical(spark, build(completejourney.Options, config.options, "source.options")))


def _synthetic(spark: SparkSession, config: SourceConfig) -> Canonical:
    from .synthetic import options, world

    return Canonical(*world.canonical(spark, build(options.WorldOptions, config.options, "source.options")))


def _tables(spark: SparkSession, config: SourceConfig, batch: tuple[int, int] | None) -> Canonical:
    from . import mapping

    return Canonical(*mapping.canonical(spark, build(mapping.Options, config.options, "source.options"), batch))
