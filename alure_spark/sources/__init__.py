"""Adapters from somebody's data to the canonical tables `events`, `ads`, `follows` and `users` (see tables.py).

An adapter hands over frames with the canonical column names; it does not clean: ingestion does that for every source alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from ..config import SourceConfig, build
from ..errors import AlureError, ConfigError, DataError, nearest
from ..masking import resolved

# What Spark says where no row and no file of the source is the reason; reading all tables again would say nothing.
OF_NO_ROW = re.compile(r"No space left on device|ExecutorLostFailure|Job \d+ cancelled|Connection refused|\[DELTA_")


@dataclass(frozen=True)
class Canonical:
    """What an adapter hands over. A set without ads, follows or users leaves them None; one that is no set of mapped tables, `tables`."""

    events: DataFrame
    ads: DataFrame | None = None
    follows: DataFrame | None = None
    tables: DataFrame | None = None  # one row per mapped table: what was read of it, shaped as preflight.TableCounts
    users: DataFrame | None = None


def read(
    spark: SparkSession,
    config: SourceConfig,
    batch: tuple[int, int] | None = None,
    attributes: Mapping[str, str] | None = None,
    of_users: Mapping[str, str] | None = None,
) -> Canonical:
    """The canonical frames of the configured source. Raises ConfigError on an unknown kind or option.

    batch: epoch ms [from, to) of known_at that will be asked for; an adapter may leave out events outside, so as to read less.
    attributes: the declared ones, name -> kind, which decide what type such a column has where tables differ; of_users: those of users,
    None where nobody asks for these.
    """
    kinds: dict[str, Callable[[], Canonical]] = {
        "completejourney": lambda: _completejourney(spark, config),
        "synthetic": lambda: _synthetic(spark, config),
        "tables": lambda: _tables(spark, config, batch, attributes or {}, of_users),
    }
    if config.kind not in kinds:
        raise ConfigError(f"source.kind is '{config.kind}'{nearest(config.kind, kinds)}")
    return kinds[config.kind]()


def read_examples(spark: SparkSession, config: SourceConfig, columns: Mapping[str, str]) -> DataFrame:
    """Labelled impressions as they are mapped in source.options.examples. Raises ConfigError where the source is no set of tables.

    columns: field -> kind as of an attribute, and task -> numeric.
    """
    from . import mapping

    if config.kind != "tables":
        raise ConfigError(
            f"source.kind is '{config.kind}'; allowed: tables, with source.options.examples, where fields read example.COLUMN"
        )
    return mapping.examples(spark, build(mapping.Options, config.options, "source.options"), columns)


def _options(config: SourceConfig) -> dict[str, Any]:
    return dict(resolved(config.options, "source.options"))


def _completejourney(spark: SparkSession, config: SourceConfig) -> Canonical:
    from . import completejourney

    events, ads, users = completejourney.canonical(spark, build(completejourney.Options, _options(config), "source.options"))
    return Canonical(events, ads, users=users)


def _synthetic(spark: SparkSession, config: SourceConfig) -> Canonical:
    from .synthetic import options, world

    return Canonical(*world.canonical(spark, build(options.WorldOptions, _options(config), "source.options")))


def _tables(
    spark: SparkSession,
    config: SourceConfig,
    batch: tuple[int, int] | None,
    attributes: Mapping[str, str],
    of_users: Mapping[str, str] | None,
) -> Canonical:
    from . import mapping

    options = build(mapping.Options, config.options, "source.options")
    return Canonical(*mapping.canonical(spark, options, batch, attributes, of_users))


@contextmanager
def failures_named(spark: SparkSession, config: SourceConfig, batch: tuple[int, int] | None = None) -> Iterator[None]:
    """Spark reads rows when they are asked for: what then fails in here because of a table of the source is a DataError that names it.

    A table that cannot be read, or an expression of the conf that fails on a row. Looks for it by reading the tables once more.
    """
    try:
        yield
    except AlureError:
        raise
    except Exception as error:
        of_spark = type(error).__module__.startswith(("pyspark.", "py4j."))
        if config.kind != "tables" or not of_spark or OF_NO_ROW.search(str(error)):
            raise
        from . import mapping

        found = mapping.what_fails(spark, build(mapping.Options, config.options, "source.options"), batch)
        if not found:
            raise
        raise DataError(found) from error
