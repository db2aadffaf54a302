"""What each variant of jobs/compare_transfer.py reads of the user model: the conf's ranking model with fields dropped, or read otherwise.

Enters: the conf. Leaves: the conf of a downstream task, and of a variant of it. All else stays: rows, other fields, settings, seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..config import ADAPTERS, Config, DownstreamConfig, FieldConfig, UpstreamConfig
from ..config.towers import AUXILIARY_LEARNING
from ..errors import ConfigError

NONE = "none"  # what the others are compared with
ALL = "all"  # the downstream task of a conf that declares none
OF_USERS, OF_ADS, CROSSES = ("user.embedding",), ("ad.representation",), ("user.cross", "ad.cross")
REPRESENTATIONS = (*OF_USERS, *OF_ADS, *CROSSES)
KEPT = {NONE: (), "ur": OF_USERS, "ur_ir": (*OF_USERS, *OF_ADS), "ur_ir_cr": REPRESENTATIONS}
LAYER = "layer_"


def variants_of(config: Config) -> list[str]:
    """What is compared, `none` first. Raises ConfigError where no field reads a representation, or none reads anything else."""
    read = {one.reads in REPRESENTATIONS for one in config.ranking.fields.values()}
    if read != {True, False}:
        lacks = "else, so that a model without them would have nothing to read" if True in read else "of the user model"
        raise ConfigError(
            f"ranking.fields reads nothing {lacks}; allowed: fields that read some of {', '.join(REPRESENTATIONS)}, and other fields"
        )
    layers = [one for one in config.transfer.compare if one.startswith(LAYER)]
    if layers and not any(one.reads in CROSSES for one in config.ranking.fields.values()):
        raise ConfigError(f"transfer.compare names {layers[0]}, but no field of ranking.fields reads {' or '.join(CROSSES)}")
    others = [one for one in layers if layer_of(config, one) != config.transfer.layer]
    if others and config.labels.negative_rate < 1:
        raise ConfigError(
            f"transfer.compare names {others[0]}, which is made of the impressions that labels.negative_rate={config.labels.negative_rate} "
            "left by what their labels are at time.as_of: for earlier days that leaks the future; allowed: labels.negative_rate 1, or "
            "extract_representations with that transfer.layer for each of these days"
        )
    return list(dict.fromkeys((NONE, *config.transfer.compare)))


def layer_of(config: Config, variant: str) -> str:
    """The layer whose cross representations the variant reads."""
    return variant.removeprefix(LAYER) if variant.startswith(LAYER) else config.transfer.layer


def downstream_tasks(config: Config) -> Mapping[str, DownstreamConfig]:
    """Name -> task; one of all impressions where the conf declares none."""
    return config.transfer.downstream or {ALL: DownstreamConfig()}


def downstream_config(config: Config, name: str, its: DownstreamConfig) -> Config:
    """The conf whose ranking model predicts the tasks of a downstream task; where they are fewer, all alike.

    Raises ConfigError where none of them has a label of 0 or 1, which normalized entropy is of.
    """
    ranking, tasks = config.ranking, tuple(dict.fromkeys(its.tasks)) or config.ranking_tasks
    if not set(tasks) - set(config.labels.sums):
        raise ConfigError(
            f"transfer.downstream.{name} has only tasks whose label is a number; allowed: at least one with a label of 0 or 1"
        )
    if set(tasks) == set(config.ranking_tasks):
        return config
    several = len(tasks) > 1
    towers = {tower: tuple(task for task in of if task in tasks) for tower, of in ranking.towers.items()}
    fewer = replace(
        ranking,
        tasks=tuple(tasks),
        score={task: worth for task, worth in ranking.score.items() if task in tasks},
        towers={tower: of for tower, of in towers.items() if of and several},
        scheme=ranking.scheme if several and ranking.scheme != AUXILIARY_LEARNING else "ame",
        main_task="",
        auxiliary_weight=1.0,
    )
    return replace(config, ranking=fewer)


def variant_config(config: Config, variant: str, widths: Mapping[str, int]) -> Config:
    """The conf whose ranking model reads what the variant says; widths: layer -> numbers of its cross representations."""
    kept, layer = KEPT.get(variant, REPRESENTATIONS), layer_of(config, variant)
    fields = {name: one for name, one in config.ranking.fields.items() if one.reads not in REPRESENTATIONS or one.reads in kept}
    if variant in ADAPTERS:
        fields = {name: _adapted(one, variant) for name, one in fields.items()}
    if layer != config.transfer.layer:
        fields = {name: _as_wide(one, widths[layer]) for name, one in fields.items()}
    ranking = replace(config.ranking, fields=fields, warm_start=False, upstream=UpstreamConfig())  # each is trained afresh
    return replace(config, ranking=ranking, transfer=replace(config.transfer, layer=layer))


def _adapted(one: FieldConfig, adapter: str) -> FieldConfig:
    if one.reads not in REPRESENTATIONS or one.encoding != "numbers":
        return one
    return replace(one, options=dict(one.options) | {"adapter": adapter})


def _as_wide(one: FieldConfig, numbers: int) -> FieldConfig:
    return replace(one, options=dict(one.options) | {"numbers": numbers}) if one.reads in CROSSES else one


def twins(configs: Mapping[str, Config]) -> dict[str, str]:
    """Variant -> the first one that reads the same, with which it is trained once."""

    def alike(one: Config, other: Config) -> bool:
        crossed = any(field.reads in CROSSES for field in one.ranking.fields.values())
        fields = [_plain(config) for config in (one, other)]
        return fields[0] == fields[1] and (not crossed or one.transfer.layer == other.transfer.layer)

    return {name: next(first for first, its in configs.items() if alike(its, config)) for name, config in configs.items()}


def _plain(config: Config) -> dict[str, FieldConfig]:
    """The fields, with the adapter that the encoding has where none is said."""

    def one(field: FieldConfig) -> FieldConfig:
        given = {"adapter": "linear"} if field.encoding == "numbers" else {}
        return replace(field, options=given | dict(field.options))

    return {name: one(field) for name, field in config.ranking.fields.items()}
