"""The configuration: frozen dataclasses with defaults and range checks; conf/*.yml holds values only.

`load("conf/demo.yml", ["graph.k2=10"])` reads YAML, applies dotted overrides and checks every key and value.
An unknown key is an error that names the nearest known one. `digest` is the config hash that `runs` and MLflow carry.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from .clock import DAY_MS, EARLIEST_MS, FIRST_AS_OF_MS, HOUR_MS, LAST_AS_OF_MS, LONGEST_DAYS, parse_time
from .conf_checks import check_number, check_path, check_run_name, check_streams
from .errors import ConfigError, nearest, shown
from .masking import MASK, SECTIONS, is_secret, masked_text
from .paths import PATTERN_SIGNS
from .tables import ATTRIBUTE_TYPES, DATED_TABLES, EVENTS, GRAPH_BITS
from .yaml_text import plain, read_file, read_override, shown_at

T = TypeVar("T")
YOUNGER = {"younger": True}  # metadata of a setting that came later: at its default it leaves `Config.digest` as it was without it
ROTARY_PAIRS = 4  # of each head: two of the hour, one of the weekday, and at least one of the order


def _require(condition: bool, path: str, value: object, allowed: str) -> None:
    if not condition:
        raise ConfigError(f"{path} is {shown_at(value, path)}; allowed: {allowed}")


@dataclass(frozen=True)
class LakeConfig:
    root: str = "./lake"  # a folder of Delta tables (contains '/' or ':'), or `catalog.schema`
    scratch: str = "./out/scratch"  # what jobs share with their tasks while they run, e.g. packed rows; executors must reach it
    vacuum_hours: float = 168.0  # forget_users erases the files of versions older than this; 0 leaves no earlier version to read
    keep_days: Mapping[str, float] = field(default_factory=dict)  # table -> days that apply_retention leaves; others are kept whole
    wait_minutes: float = 0.0  # how long a job waits for another one that is writing to the lake, before it gives up
    lease_hours: float = 24.0  # a writer on another machine that has said nothing for so long is taken for dead

    def __post_init__(self) -> None:
        check_path("lake.root", self.root)
        schema = re.fullmatch(r"(\w+|`[^`]+`)\.(\w+|`[^`]+`)", self.root)
        _require(
            self.is_folder or bool(schema), "lake.root", self.root, "a folder such as ./lake, or catalog.schema (odd names in backticks)"
        )
        check_path("lake.scratch", self.scratch)
        blank = not self.scratch.lower().removeprefix("file:").strip("/ ")
        _require(not blank, "lake.scratch", self.scratch, "a folder such as ./out/scratch")
        both = ":" in self.scratch.removeprefix("file:") and PATTERN_SIGNS.search(self.scratch)
        _require(not both, "lake.scratch", self.scratch, "a path without ':' beside any of {}[]*?\\, which Spark cannot list")
        for name in ("vacuum_hours", "wait_minutes", "lease_hours"):
            _require(getattr(self, name) >= 0, f"lake.{name}", getattr(self, name), "0 or more")
        for name, days in self.keep_days.items():
            if name not in DATED_TABLES:
                raise ConfigError(f"lake.keep_days names the table {shown(name)}{nearest(name, DATED_TABLES)}")
            _require(0 < days <= LONGEST_DAYS, f"lake.keep_days.{name}", days, f"a number above 0, at most {LONGEST_DAYS:,}")

    @property
    def is_folder(self) -> bool:
        """Whether root is a folder of Delta tables; else it is a catalog.schema."""
        return "/" in self.root or ":" in self.root


@dataclass(frozen=True)
class SparkConfig:
    """How to get a session. An active session (Databricks, spark-submit's own) always wins."""

    master: str = "local[2]"
    remote: str = ""  # a Spark Connect address such as sc://host:15002, instead of master
    driver_memory: str = "4g"
    shuffle_partitions: int = 8
    settings: Mapping[str, str] = field(default_factory=dict)  # any further spark.* setting

    def __post_init__(self) -> None:
        memory = re.fullmatch(r"(?i)[1-9][0-9]{0,8}[bkmgt]?b?", self.driver_memory)
        _require(bool(memory), "spark.driver_memory", self.driver_memory, "a size such as 4g or 512m")
        _require(self.shuffle_partitions >= 1, "spark.shuffle_partitions", self.shuffle_partitions, "an integer of at least 1")


@dataclass(frozen=True)
class TrackingConfig:
    uri: str = "sqlite:///mlflow.db"
    experiment: str = "alure_spark"
    artifact_root: str = "./mlartifacts"  # '' leaves it to the tracking server
    offline_root: str = "./out/untracked"  # where a run's figures go when the tracking store fails
    model_name: str = ""  # registered model ('' is alure_user_model_<name of the conf>); Unity Catalog: catalog.schema.name

    def __post_init__(self) -> None:
        for name in ("uri", "experiment", "offline_root", *(["artifact_root"] if self.artifact_root else [])):
            check_path(f"tracking.{name}", getattr(self, name))
        if self.model_name:
            check_run_name("tracking.model_name", self.model_name)


@dataclass(frozen=True)
class SourceConfig:
    kind: str = "completejourney"  # completejourney, synthetic or tables
    options: Mapping[str, Any] = field(default_factory=dict)  # checked by the adapter's own Options


@dataclass(frozen=True)
class TimeConfig:
    as_of: str = ""  # ISO 8601, UTC where no offset is given; histories and labels end here, exclusive
    horizon_days: float = 30.0  # evaluation looks at [as_of, as_of + horizon_days)
    not_before: str = "1990-01-01T00:00:00Z"  # earlier event times are quarantined
    not_after: str = ""  # later event times are quarantined as future; '' is the clock of the job

    def __post_init__(self) -> None:
        for name in ("as_of", "not_before", "not_after"):
            if getattr(self, name):
                parse_time(getattr(self, name), f"time.{name}")
        within = not self.as_of or FIRST_AS_OF_MS <= self.as_of_ms <= LAST_AS_OF_MS
        _require(within, "time.as_of", self.as_of, "a time in the years 1400 to 8000")
        _require(self.horizon_days > 0, "time.horizon_days", self.horizon_days, "a number above 0")

    @property
    def as_of_ms(self) -> int:
        """Epoch milliseconds of as_of. Raises ConfigError when it is not set."""
        if not self.as_of:
            raise ConfigError("time.as_of is not set: give the cut as ISO 8601, e.g. --set time.as_of=2017-11-01T00:00:00Z")
        return parse_time(self.as_of, "time.as_of")

    @property
    def horizon_end_ms(self) -> int:
        return self.as_of_ms + round(self.horizon_days * DAY_MS)


@dataclass(frozen=True)
class IngestConfig:
    """How raw rows become events; one run takes the whole log, or the batch that became known in the last days before as_of."""

    batch_days: float = 0.0  # take what was known in [time.as_of - batch_days, time.as_of) and keep the rest; 0 replaces the table
    late_days: float = 0.0  # an event that arrived later than so many days after it happened is refused; 0 takes every one
    dwell_from_next: tuple[str, ...] = ()  # streams without dwell: it is the gap to the user's next event, known only then
    session_gap_minutes: float = 30.0  # dwell_from_next: a longer gap ends the session, and the dwell stays unknown
    dwell_min_ms: int = 0  # a shorter dwell is no dwell (DynamiX: 250): it becomes null and is counted
    dwell_max_ms: int = 0  # so does a longer one; 0 has no upper bound
    utc_offset_minutes: Mapping[str, int] = field(default_factory=dict)  # country -> local time, where an event has none of its own
    max_row_change: float = 0.0  # refuse a load with a stream that has more or fewer rows than the last one by this share; 0 is off
    max_refused_share: float = 0.0  # refuse a load of whose rows a larger share is refused; 0 is off
    # Refuse a load with a mapped table, or a batch, of which nothing is left; such tables are told in any case.
    refuse_empty: bool = field(default=True, metadata=YOUNGER)
    max_null_rise: float = 0.0  # refuse a load in which a column is missing more often than in the last one by this share; 0 is off
    hash_user_ids: bool = False  # user ids become HMAC-SHA256 under the key in the environment variable ALURE_USER_KEY

    def __post_init__(self) -> None:
        for name in ("batch_days", "late_days", "dwell_min_ms", "dwell_max_ms", "max_row_change", "max_refused_share", "max_null_rise"):
            _require(getattr(self, name) >= 0, f"ingest.{name}", getattr(self, name), "0 (off) or more")
        _require(self.session_gap_minutes > 0, "ingest.session_gap_minutes", self.session_gap_minutes, "a number above 0")
        for country, minutes in self.utc_offset_minutes.items():
            _require(abs(minutes) <= 840, f"ingest.utc_offset_minutes.{country}", minutes, "-840 to 840")


@dataclass(frozen=True)
class StreamConfig:
    """One source (named stream) of events and what of it goes into the sequences."""

    attributes: Mapping[str, str] = field(default_factory=dict)  # name -> categorical | numeric | text | embedding
    max_events: int = 512  # the last N events of a user that a sequence keeps
    max_days: float = 0.0  # of these, only the ones known in the last days before as_of; 0 keeps them however old

    def __post_init__(self) -> None:
        _require(self.max_days >= 0, "max_days", self.max_days, "0 (no limit) or more")
        _require(self.max_events >= 1, "max_events", self.max_events, "an integer of at least 1")
        for name, kind in self.attributes.items():
            _require(kind in ATTRIBUTE_TYPES, f"attributes.{name}", kind, ", ".join(ATTRIBUTE_TYPES))

    @property
    def max_days_ms(self) -> int:
        return round(self.max_days * DAY_MS)


@dataclass(frozen=True)
class LabelConfig:
    """Which streams make labelled impressions, and how long after one a response still counts (both ends included)."""

    impression_source: str = "ad_impression"
    click_source: str = "ad_click"
    conversion_source: str = "conversion"
    click_window_hours: float = 24.0
    conversion_window_hours: float = 168.0
    clock_skew_seconds: float = field(
        default=0.0, metadata=YOUNGER
    )  # a response that names its impression may be earlier than it by so much: it counts as at it
    days: float = 0.0  # examples of the impressions in the last days before as_of; 0: of all there ever were, which reads all events
    validation_days: float = 7.0  # impressions in the last days before as_of are the validation split
    max_impressions: int = 1024  # the last impressions of a user that a training row keeps
    hold_back_immature: bool = False  # leave out impressions whose windows are still open at as_of (else label_age_ms says so)
    negative_rate: float = 1.0  # share of the training split's impressions without a response that stay; each weighs 1 / rate
    impression_attributes: tuple[str, ...] = ()  # attributes of the impression's stream that are known before the ad is shown

    def __post_init__(self) -> None:
        for name in ("click_window_hours", "conversion_window_hours", "validation_days", "max_impressions"):
            _require(getattr(self, name) > 0, f"labels.{name}", getattr(self, name), "a number above 0")
        _require(0 <= self.clock_skew_seconds <= 3600, "labels.clock_skew_seconds", self.clock_skew_seconds, "0 (off) to 3600")
        enough = self.days == 0 or self.days > self.validation_days
        _require(enough, "labels.days", self.days, "0 (all), or more than labels.validation_days")
        # Drawn in millionths (events/examples.py): of a smaller share nothing would be left, at a weight beyond counting.
        _require(1e-6 <= self.negative_rate <= 1, "labels.negative_rate", self.negative_rate, "0.000001 to 1")

    def first_ms(self, as_of_ms: int) -> int | None:
        """When the first impression of the examples of as_of may have happened, epoch ms; None without a limit."""
        return max(as_of_ms - round(self.days * DAY_MS), EARLIEST_MS) if self.days else None

    @property
    def responses(self) -> tuple[tuple[str, str, float], ...]:
        """(label, stream of its responses, window in hours) of each label."""
        return (
            ("click", self.click_source, self.click_window_hours),
            ("conversion", self.conversion_source, self.conversion_window_hours),
        )

    @property
    def clock_skew_ms(self) -> int:
        return round(self.clock_skew_seconds * 1000)

    @property
    def validation_ms(self) -> int:
        return round(self.validation_days * DAY_MS)

    @property
    def window_ms(self) -> int:
        """How old an impression must be for both of its labels to be final, but for responses that arrive late."""
        return round(max(self.click_window_hours, self.conversion_window_hours) * HOUR_MS)


@dataclass(frozen=True)
class VocabularyConfig:
    """Which ids get an embedding row of their own; the others share (house rule 1: a row once given never changes)."""

    min_count: int = 1  # events that must have named an id before it gets a row
    hash_buckets: int = 0  # rows of every space among which ids without one are spread; 0: they all are the unknown id

    def __post_init__(self) -> None:
        _require(self.min_count >= 1, "vocabulary.min_count", self.min_count, "an integer of at least 1")
        _require(self.hash_buckets >= 0, "vocabulary.hash_buckets", self.hash_buckets, "0 (none) or more")


@dataclass(frozen=True)
class FeaturePolicy:
    """What is read of a segment's users: sources, attributes and events (DynamiX, section 3.2). None and {} mean all."""

    sources: tuple[str, ...] | None = None
    drop_attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # source -> attributes left out
    max_events: Mapping[str, int] = field(default_factory=dict)  # source -> the last N events read

    def __post_init__(self) -> None:
        for name, last in self.max_events.items():
            _require(
                last >= 2, f"feature_policy max_events.{name}", last, "an integer of at least 2: an event, and one before it for its gap"
            )

    def select(self, streams: Mapping[str, StreamConfig]) -> dict[str, StreamConfig]:
        """The streams as this policy leaves them. Raises ConfigError on a source or attribute that conf does not declare."""
        for name in (*(self.sources or ()), *self.drop_attributes, *self.max_events):
            if name not in streams:
                raise ConfigError(f"feature_policy names the source {shown(name)}{nearest(name, streams)}")
        selected = {}
        for name, stream in streams.items():
            if self.sources is not None and name not in self.sources:
                continue
            dropped = self.drop_attributes.get(name, ())
            for attribute in dropped:
                if attribute not in stream.attributes:
                    raise ConfigError(f"feature_policy drops {shown(f'{name}.{attribute}')}{nearest(attribute, stream.attributes)}")
            kept = {key: kind for key, kind in stream.attributes.items() if key not in dropped}
            last = min(self.max_events.get(name, stream.max_events), stream.max_events)
            selected[name] = dataclasses.replace(stream, attributes=kept, max_events=last)
        return selected


@dataclass(frozen=True)
class ExperimentConfig:
    """One way to spend on segments that jobs/compare_policies.py tries."""

    against: str = ""  # the experiment that it is compared with; '' for one that is only compared with
    policy: Mapping[str, FeaturePolicy] = field(default_factory=dict)  # segment -> policy, as feature_policy


@dataclass(frozen=True)
class EmbeddingConfig:
    """The user embedding: the ALURE model, or a classic one (truncated SVD of the idf-weighted user-item matrix, item2vec)."""

    method: str = "alure"  # alure, svd or item2vec
    model: str = "champion"  # for alure: an alias or a version of the registered model
    sources: tuple[str, ...] = ()  # streams whose items describe a user; empty means all
    dimension: int = 64  # of a classic embedding, and of each of the model's item vectors
    window: int = 4  # item2vec: items this near in the time-ordered history co-occur
    min_items: int = 1  # users with fewer distinct items get no embedding
    publish_lag_hours: float = 6.0  # ranking_examples: an embedding serves from so long after its as_of on
    fit_users: int = 200_000  # the factorisation sees at most so many users (smallest hash first); all are embedded
    seed: int = 7

    def __post_init__(self) -> None:
        _require(self.method in ("alure", "svd", "item2vec"), "embedding.method", self.method, "alure, svd, item2vec")
        for name in ("dimension", "window", "min_items", "fit_users", "seed"):
            _require(getattr(self, name) >= 1, f"embedding.{name}", getattr(self, name), "an integer of at least 1")
        _require(self.publish_lag_hours >= 0, "embedding.publish_lag_hours", self.publish_lag_hours, "0 or more")

    @property
    def publish_lag_ms(self) -> int:
        return round(self.publish_lag_hours * HOUR_MS)


@dataclass(frozen=True)
class ModelConfig:
    """The ALURE user model (section 2.2 and 2.3): one module per source and layer on packed tokens, compressed to few embeddings."""

    dimension: int = 64  # d of the tokens and of the layers
    layers: int = 1
    heads: int = 4
    feed_forward: int = 256
    max_events: int = 512  # N: a read-out sees at most the last N events of a source, and of what its stream keeps
    window: int = 128  # events that a layer's attention looks back at most (N / layers, where that is less)
    order_encoding: bool = True  # attention bias by the distance in order
    time_bias: bool = True  # attention bias by the pairwise time gap
    gap_encoding: bool = True  # log of the time since the previous event of the source
    clock_encoding: bool = True  # local hour and weekday
    frequency_encoding: bool = False  # how many events of the source the user had in the last hour, day, week, month, and at all
    rotary_encoding: bool = False  # queries and keys turn with order, local hour and weekday (RoFormer)
    value_encodings: bool = True  # values see the encodings of time as queries and keys do; else content alone
    exchange: bool = False  # sources also meet inside a layer
    read_layers: tuple[int, ...] = ()  # whose states are read: 0 the tokens, `layers` the last one; empty: the last one
    read_positions: int = 1  # the embedding is made of the states at a source's last so many events
    ad_attention: int = 0  # an impression's ad attends to a source's last so many events; 0: it does not
    compression: str = "linear"  # of states to the embedding: linear (two layers), dot_product or attention (ALURE, section 2.3)
    compressed: int = 4  # embeddings that dot_product makes of all before they become one
    text_words: int = 16  # a text is read as a bag of its first so many words
    text_buckets: int = 4096  # embedding rows over which the words of a text attribute are spread
    embedding_dimensions: Mapping[str, int] = field(default_factory=dict)  # attribute of kind embedding -> its length; others are not read
    semantic_ids: tuple[str, ...] = ()  # of these attributes, the ones that are read as codes (jobs/train_semantic_ids.py), not as numbers
    views: tuple[str, ...] = ("svd", "item2vec")  # E item vectors, each pooled to one vector of the embedding
    residual: bool = True  # the compressed states may move the embedding away from the pooled item vectors
    next_items: int = 1024  # positions of a source and batch that the next-item objective asks at most
    full_softmax: bool = False  # the next-item objective scores all items, not the batch's own: for corpora of some thousand
    item_vectors: bool = True  # start the pooled item vectors from the classic factorisations, else at random
    dropout: float = 0.1
    seed: int = 7

    def __post_init__(self) -> None:
        sizes = ("dimension", "layers", "heads", "feed_forward", "max_events", "window", "read_positions")
        for name in (*sizes, "compressed", "text_words", "next_items", "seed"):
            _require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "an integer of at least 1")
        _require(self.text_buckets >= 2, "model.text_buckets", self.text_buckets, "an integer of at least 2")
        for name, width in self.embedding_dimensions.items():
            _require(width >= 1, f"model.embedding_dimensions.{name}", width, "an integer of at least 1")
        for name in self.semantic_ids:
            if name not in self.embedding_dimensions:
                raise ConfigError(f"model.semantic_ids names {shown(name)}, whose length model.embedding_dimensions must say")
        _require(self.ad_attention >= 0, "model.ad_attention", self.ad_attention, "0 (off) or more")
        known_compression = self.compression in ("linear", "dot_product", "attention")
        _require(known_compression, "model.compression", self.compression, "linear, dot_product, attention")
        layers = all(0 <= layer <= self.layers for layer in self.read_layers) and len(set(self.read_layers)) == len(self.read_layers)
        _require(layers, "model.read_layers", self.read_layers, f"different numbers from 0 (the tokens) to model.layers={self.layers}")
        pairs = not self.rotary_encoding or (self.dimension // self.heads >= 2 * ROTARY_PAIRS and self.dimension // self.heads % 2 == 0)
        _require(pairs, "model.dimension", self.dimension, f"with rotary_encoding at least {2 * ROTARY_PAIRS} numbers a head, and even")
        _require(self.dimension % self.heads == 0, "model.dimension", self.dimension, f"a multiple of model.heads={self.heads}")
        known = bool(self.views) and set(self.views) <= {"svd", "item2vec"}
        _require(known, "model.views", self.views, "at least one of svd, item2vec")
        # One event to look at, and one before it for its gap.
        _require(self.max_events >= max(2, self.layers), "model.max_events", self.max_events, f"at least 2 and model.layers={self.layers}")
        _require(0 <= self.dropout < 1, "model.dropout", self.dropout, "0 to below 1")


@dataclass(frozen=True)
class SemanticIdConfig:
    """The residual-quantised autoencoder of each attribute in model.semantic_ids (model/semantic_ids.py)."""

    levels: int = 3  # codes per embedding
    codes: int = 256  # per level
    hidden: int = 128  # of the encoder and of the decoder
    epochs: int = 20
    batch: int = 1024
    learning_rate: float = 1e-3
    commitment: float = 1.0  # how much the encoder is drawn to its codes: less lets it run away from them
    kmeans_iterations: int = 10
    sample: int = 200_000  # embeddings that are learnt from (smallest hash of the item first)
    seed: int = 7

    def __post_init__(self) -> None:
        for name in ("levels", "hidden", "epochs", "batch", "kmeans_iterations", "sample", "seed"):
            _require(getattr(self, name) >= 1, f"semantic_ids.{name}", getattr(self, name), "an integer of at least 1")
        _require(self.codes >= 2, "semantic_ids.codes", self.codes, "an integer of at least 2")
        for name in ("learning_rate", "commitment"):
            _require(getattr(self, name) > 0, f"semantic_ids.{name}", getattr(self, name), "a number above 0")


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the training objectives; 0 leaves one out."""

    click: float = 1.0
    conversion: float = 1.0
    neighbour: float = 1.0  # contrastive across users: similar users must foretell a user's next engagements
    next_item: float = 0.2  # contrastive over items: the state must foretell the next item (sampled softmax, logQ corrected)

    def __post_init__(self) -> None:
        for name in ("click", "conversion", "neighbour", "next_item"):
            _require(getattr(self, name) >= 0, f"training.objectives.{name}", getattr(self, name), "0 or more")


@dataclass(frozen=True)
class TrainingConfig:
    """How the user model is trained."""

    reader: str = "petastorm"  # petastorm or pyarrow: both give the same batches
    export_rows: int = 512  # users per row group of the packed rows: what a reader holds at once
    batch_users: int = 256
    epochs: int = 4
    patience: int = 2  # epochs without a better validation loss before training stops
    learning_rate: float = 1e-3
    item_learning_rate_share: float = 0.0  # item tables learn at this share of the rate; free item vectors overfit
    pooling_learning_rate_share: float = 10.0  # the few numbers that weigh events and directions learn faster
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    refit: bool = True  # train once more on everything before as_of, for as many epochs as validation found best
    warm_start: bool = False  # go on from the champion with the impressions that are new to it, instead of from the start
    holdout_users: float = 0.1  # with warm_start: share of the users whose new impressions judge, others each time
    checkpoint_steps: int = 20  # steps between checkpoints, from which an interrupted training goes on
    processes: int = 1  # that train together on this machine, each on its users of every batch
    threads: int = 0  # of torch; 0 means all cores. Equal threads give equal weights
    gate: float = 0.01  # the champion moves unless the new validation loss is worse by more than this share
    calibration_range: tuple[float, ...] = (0.5, 2.0)  # with warm_start: nor when expected over observed positives leave this range
    objectives: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    seed: int = 7

    def __post_init__(self) -> None:
        _require(self.reader in ("petastorm", "pyarrow"), "training.reader", self.reader, "petastorm, pyarrow")
        for name in ("export_rows", "batch_users", "epochs", "patience", "processes", "checkpoint_steps", "seed"):
            _require(getattr(self, name) >= 1, f"training.{name}", getattr(self, name), "an integer of at least 1")
        for name in ("learning_rate", "clip_norm"):
            _require(getattr(self, name) > 0, f"training.{name}", getattr(self, name), "a number above 0")
        _require(0 < self.holdout_users < 1, "training.holdout_users", self.holdout_users, "above 0 and below 1")
        ordered = len(self.calibration_range) == 2 and 0 <= self.calibration_range[0] <= 1 <= self.calibration_range[1]
        _require(ordered, "training.calibration_range", self.calibration_range, "two numbers around 1")
        for name in ("item_learning_rate_share", "pooling_learning_rate_share", "weight_decay", "threads", "gate"):
            _require(getattr(self, name) >= 0, f"training.{name}", getattr(self, name), "0 or more")


@dataclass(frozen=True)
class InferenceConfig:
    """How the user model runs over the table."""

    batch_users: int = 1024  # users per Arrow batch that a worker holds
    max_tokens: int = 200_000  # tokens that run through the model at once: bounds the memory of a worker
    compile: str = "never"  # auto (where it is faster), always or never
    precision: str = "float32"  # float32 or float64

    def __post_init__(self) -> None:
        for name in ("batch_users", "max_tokens"):
            _require(getattr(self, name) >= 1, f"inference.{name}", getattr(self, name), "an integer of at least 1")
        _require(self.compile in ("auto", "always", "never"), "inference.compile", self.compile, "auto, always, never")
        _require(self.precision in ("float32", "float64"), "inference.precision", self.precision, "float32, float64")


GRAPHS = tuple(GRAPH_BITS)  # user graphs: by embeddings, by follows, by personalised PageRank over follows


@dataclass(frozen=True)
class FollowConfig:
    """Who is near whom by follows (ALURE, section 5.2: BFF)."""

    half_life_days: float = 365.0  # a follow counts half after so many days
    most_followees: int = 1000  # the strongest follows of a user that count
    hub_followers: int = 1000  # sharing a followee with more followers than that says nothing (and its pairs would be too many)
    direct: float = 0.5  # what following somebody adds to what the two share
    mutual: float = 0.5  # what being followed back adds

    def __post_init__(self) -> None:
        _require(self.half_life_days > 0, "graph.follow.half_life_days", self.half_life_days, "a number above 0")
        for name in ("most_followees", "hub_followers"):
            _require(getattr(self, name) >= 1, f"graph.follow.{name}", getattr(self, name), "an integer of at least 1")
        for name in ("direct", "mutual"):
            _require(getattr(self, name) >= 0, f"graph.follow.{name}", getattr(self, name), "0 or more")


@dataclass(frozen=True)
class PageRankConfig:
    """Personalised PageRank by truncated push (graph/pagerank.py)."""

    restart: float = 0.15  # probability that a walk ends at a node
    least_share: float = 5e-5  # a smaller share of the walk is not followed further
    steps: int = 20  # nor is any share for more steps

    def __post_init__(self) -> None:
        _require(0 < self.restart < 1, "graph.pagerank.restart", self.restart, "above 0 and below 1")
        _require(0 < self.least_share <= 1, "graph.pagerank.least_share", self.least_share, "above 0, at most 1")
        _require(self.steps >= 1, "graph.pagerank.steps", self.steps, "an integer of at least 1")


@dataclass(frozen=True)
class GraphConfig:
    """User similarity graph (ALURE, section 3); names as in the paper."""

    graphs: tuple[str, ...] = ("alure",)  # which are built; several are blended into one
    blend: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(GRAPHS, 1.0))  # what each counts in the blend
    blend_by_country: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # where that differs
    blend_by_lift: bool = True  # these times how much better than chance each graph's last edges foretold the engagements since
    follow: FollowConfig = field(default_factory=FollowConfig)
    pagerank: PageRankConfig = field(default_factory=PageRankConfig)

    k1: int = 400  # clusters per country, at most users / users_per_cluster
    users_per_cluster: int = 50
    k1_probed: int = 50  # k1': nearest clusters that a user searches
    k2: int = 15  # neighbours per user
    search: str = "auto"  # auto (the cheaper road), exact or probed
    min_similarity: float = -1.0  # edges of a lower cosine are left out
    mutual: bool = False  # only edges whose reverse is an edge too
    hub_cap: int = 0  # most users that one user may be the neighbour of, the most similar ones; 0: any number
    excluded_users: tuple[str, ...] = ()  # have no neighbours and are nobody's, in any graph
    compare_roads: bool = False  # run both roads and log their cost and agreement
    kmeans_iterations: int = 20
    kmeans_tolerance: float = 1e-4  # the loop ends when the mean similarity of users to their centroids rises by no more
    kmeans_warm_start: bool = True  # go on from the centroids of the last as_of before, where they fit better than new seeds
    kmeans_points_per_cluster: int = 256  # centroids are fitted on at most so many users per cluster
    recall_queries: int = 200  # users per country whose neighbours are checked against exact search
    recall_floor: float = 0.0  # a lower recall in any country refuses to publish
    seed: int = 7

    def __post_init__(self) -> None:
        _require(bool(self.graphs) and set(self.graphs) <= set(GRAPHS), "graph.graphs", self.graphs, f"some of {', '.join(GRAPHS)}")
        for where, weights in (
            ("graph.blend", self.blend),
            *((f"graph.blend_by_country.{c}", w) for c, w in self.blend_by_country.items()),
        ):
            for name, weight in weights.items():
                _require(name in GRAPHS, where, name, ", ".join(GRAPHS))
                _require(weight >= 0, f"{where}.{name}", weight, "0 or more")
        _require(self.search in ("auto", "exact", "probed"), "graph.search", self.search, "auto, exact, probed")
        positive = ("k1", "users_per_cluster", "k1_probed", "k2", "kmeans_iterations", "kmeans_points_per_cluster", "seed")
        for name in positive:
            _require(getattr(self, name) >= 1, f"graph.{name}", getattr(self, name), "an integer of at least 1")
        _require(self.kmeans_tolerance >= 0, "graph.kmeans_tolerance", self.kmeans_tolerance, "0 or more")
        _require(-1 <= self.min_similarity <= 1, "graph.min_similarity", self.min_similarity, "-1 to 1")
        _require(self.hub_cap >= 0, "graph.hub_cap", self.hub_cap, "0 (any number) or more")
        _require(0 <= self.recall_floor <= 1, "graph.recall_floor", self.recall_floor, "0 to 1")
        _require(self.recall_queries >= 0, "graph.recall_queries", self.recall_queries, "0 (off) or more")

    @property
    def retrieved(self) -> str:
        """The graph that ads are retrieved through."""
        return "blend" if len(self.graphs) > 1 else self.graphs[0]


PASSIVE, ACTIVE = "passive", "active"
EVERYBODY = "all"  # the segment of all users, where no policy tells them apart
ALL_SURFACES = "ALL"  # the surface of what is of a user as a whole


@dataclass(frozen=True)
class DynamixConfig:
    """Which impressions tell how a user's dwell goes with conversions, and where active begins (DynamiX, section 3)."""

    impression_source: str = "ad_impression"  # with dwell_ms
    conversion_sources: tuple[str, ...] = ("ad_click", "conversion")
    window_seconds: float = 300.0  # s: a conversion in [t - buffer, t + s] belongs to the impression at t, both ends included
    buffer_seconds: float = 60.0  # conversions are logged up to so long before their impression
    dwell_min_ms: int = 250  # a shorter dwell is left out
    dwell_max_ms: int = 3_600_000  # and a longer one
    day_windows: int = 1  # equal parts of the user's local day that are told apart; 1: none
    history_days: float = 0.0  # statistics of the impressions of the last days; 0: of all there ever were
    valid_hours: float = 24.0  # for how long after as_of the segments hold
    shrinkage: bool = True  # draw the correlation of users with few impressions towards that of all (empirical Bayes)
    threshold: str = "share"  # share: so that active_share of the impressions are of active users; or given: thresholds
    active_share: float = 0.6667
    compare_seeds: tuple[int, ...] = (7, 8, 9)  # of models and training, each of which jobs/compare_policies.py tries
    compare_rounds: int = 5  # in which it times every policy
    thresholds: tuple[float, ...] = ()  # given: |corr| above the n-th makes level n; level 0 is passive, 1 active, 2 active_2, ..

    def __post_init__(self) -> None:
        windows = (1, 2, 3, 4, 6, 8, 12, 24)
        rising = list(self.thresholds) == sorted(set(self.thresholds)) and all(value >= 0 for value in self.thresholds)
        enough = self.threshold == "share" or bool(self.thresholds)
        for name, good, allowed in (
            ("window_seconds", self.window_seconds > 0, "a number above 0"),
            ("buffer_seconds", 0 <= self.buffer_seconds <= self.window_seconds, "0 to dynamix.window_seconds"),
            ("dwell_min_ms", 0 < self.dwell_min_ms < self.dwell_max_ms, "1 to below dynamix.dwell_max_ms"),
            ("day_windows", self.day_windows in windows, ", ".join(map(str, windows))),
            ("history_days", self.history_days >= 0, "0 (all) or more"),
            ("valid_hours", 0 < self.valid_hours <= 24, "above 0, to 24"),
            ("threshold", self.threshold in ("share", "given"), "share, given"),
            ("active_share", 0 < self.active_share < 1, "between 0 and 1"),
            ("thresholds", rising, "rising numbers, none below 0"),
            ("compare_seeds", len(self.compare_seeds) > 0, "at least one seed"),
            ("compare_rounds", self.compare_rounds >= 1, "an integer of at least 1"),
            ("thresholds", enough, "at least one, where dynamix.threshold is given"),
        ):
            _require(good, f"dynamix.{name}", getattr(self, name), allowed)

    @property
    def segments(self) -> tuple[str, ...]:
        """The segments that there can be: that of level 0 first."""
        levels = len(self.thresholds) if self.threshold == "given" else 1
        return (PASSIVE, ACTIVE, *(f"{ACTIVE}_{level}" for level in range(2, levels + 1)))

    @property
    def window_ms(self) -> int:
        return round(self.window_seconds * 1000)

    @property
    def buffer_ms(self) -> int:
        return round(self.buffer_seconds * 1000)


@dataclass(frozen=True)
class RetrievalConfig:
    """User-to-user retrieval of ads (ALURE, section 4)."""

    cap: int = 1500  # candidates per user
    event_weights: Mapping[str, float] = field(default_factory=lambda: {"ad_click": 1.0, "conversion": 2.0})  # for ads
    account_weights: Mapping[str, float] = field(default_factory=lambda: {"ad_click": 0.1, "conversion": 0.2})  # for accounts
    half_life_days: float = 30.0  # an engagement counts half after so many days
    max_engagements_per_user: int = 200  # the strongest ads (and accounts) of a neighbour that are passed on
    quota: Mapping[str, int] = field(default_factory=dict)  # graph -> most candidates of a user that no other graph leads to
    excluded_by: tuple[str, ...] = ()  # streams besides event_weights' whose ads the same user does not get: seen, hidden
    excluded_ads: tuple[str, ...] = ()  # nobody gets them
    excluded_accounts: tuple[str, ...] = ()
    hand_off_hours: float = 0.0  # candidates also go to serving_candidates and expire so long after as_of; 0: they do not go there

    def __post_init__(self) -> None:
        for name in ("cap", "half_life_days", "max_engagements_per_user"):
            _require(getattr(self, name) > 0, f"retrieval.{name}", getattr(self, name), "a number above 0")
        for graph, most in self.quota.items():
            _require(graph in GRAPHS, "retrieval.quota", graph, ", ".join(GRAPHS))
            _require(most >= 0, f"retrieval.quota.{graph}", most, "0 or more")
        _require(self.hand_off_hours >= 0, "retrieval.hand_off_hours", self.hand_off_hours, "0 (off) or more")


@dataclass(frozen=True)
class EvaluateConfig:
    k: int = 50  # Recall@k and NDCG@k
    neighbours: int = 10  # of the user-graph protocol
    item_sources: tuple[str, ...] = ()  # streams whose later items judge the user graph; empty: embedding.sources
    min_items: int = 5  # users with fewer items before as_of are not judged by items
    max_users: int = 20_000  # judged users (smallest hash first)
    new_user_events: int = 20  # fewer events before as_of make a user new
    bootstrap: int = 1000
    seed: int = 7

    def __post_init__(self) -> None:
        for name in ("k", "neighbours", "max_users", "bootstrap", "seed"):
            _require(getattr(self, name) >= 1, f"evaluate.{name}", getattr(self, name), "an integer of at least 1")


@dataclass(frozen=True)
class Config:
    """Everything a job needs to know. Sections that only say where a job runs are not part of `digest`."""

    name: str = "run"
    lake: LakeConfig = field(default_factory=LakeConfig)
    spark: SparkConfig = field(default_factory=SparkConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    source: SourceConfig = field(default_factory=SourceConfig)
    time: TimeConfig = field(default_factory=TimeConfig)
    ingest: IngestConfig = field(default_factory=IngestConfig)
    streams: Mapping[str, StreamConfig] = field(default_factory=dict)
    labels: LabelConfig = field(default_factory=LabelConfig)
    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    semantic_ids: SemanticIdConfig = field(default_factory=SemanticIdConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    graph: GraphConfig = field(default_factory=GraphConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    dynamix: DynamixConfig = field(default_factory=DynamixConfig)
    feature_policy: Mapping[str, FeaturePolicy] = field(default_factory=dict)  # segment -> policy, within that of 'all'
    experiments: Mapping[str, ExperimentConfig] = field(default_factory=dict)  # what jobs/compare_policies.py tries

    def __post_init__(self) -> None:
        if not self.streams:
            raise ConfigError("streams is empty: declare at least one source, e.g. streams: {purchase: {}}")
        check_run_name("name", self.name)
        check_streams({name: stream.attributes for name, stream in self.streams.items()})
        kinds: dict[str, str] = {}
        for stream, config in self.streams.items():
            for attribute, kind in config.attributes.items():
                known = {column.name: column.type for column in EVENTS.columns}.get(attribute)
                if kinds.setdefault(attribute, kind) != kind:
                    raise ConfigError(f"streams.{stream}.attributes.{attribute} is '{kind}' but '{kinds[attribute]}' in another stream")
                is_text = kind == "numeric" and known in ("STRING", "TIMESTAMP")
                if known and (is_text or (kind == "embedding") != (known == "ARRAY<FLOAT>")):
                    raise ConfigError(f"streams.{stream}.attributes.{attribute} is '{kind}', but its type is {known}")
        for where, names in (
            ("ingest.dwell_from_next", self.ingest.dwell_from_next),
            ("embedding.sources", self.embedding.sources),
            ("evaluate.item_sources", self.evaluate.item_sources),
            ("retrieval.event_weights", self.retrieval.event_weights),
            ("retrieval.account_weights", self.retrieval.account_weights),
            ("retrieval.excluded_by", self.retrieval.excluded_by),
            ("labels.impression_source", [self.labels.impression_source]),
            ("labels.click_source", [self.labels.click_source]),
            ("labels.conversion_source", [self.labels.conversion_source]),
            ("dynamix.impression_source", [self.dynamix.impression_source]),
            ("dynamix.conversion_sources", self.dynamix.conversion_sources),
        ):
            # What these settings name where nobody sets them need not be in the log.
            defaults = {"ad_impression", "ad_click", "conversion"} if where.startswith(("retrieval", "labels", "dynamix")) else set()
            for name in names:
                if name not in self.streams and name not in defaults:
                    raise ConfigError(f"{where} names the source {shown(name)}{nearest(name, self.streams)}")
        self._check_policies(self.feature_policy, "feature_policy")
        for name, experiment in self.experiments.items():
            self._check_policies(experiment.policy, f"experiments.{name}.policy")
            if experiment.against and experiment.against not in self.experiments:
                raise ConfigError(
                    f"experiments.{name}.against names {shown(experiment.against)}{nearest(experiment.against, self.experiments)}"
                )
        for name in self.model.embedding_dimensions:
            if kinds.get(name) != "embedding":
                given = [attribute for attribute, kind in kinds.items() if kind == "embedding"]
                raise ConfigError(f"model.embedding_dimensions names {shown(name)}{nearest(name, given)}")
        of_impressions = self.streams.get(self.labels.impression_source, StreamConfig()).attributes
        for name in self.labels.impression_attributes:
            if of_impressions.get(name) not in ("categorical", "numeric"):
                usable = [key for key, kind in of_impressions.items() if kind in ("categorical", "numeric")]
                raise ConfigError(f"labels.impression_attributes names {shown(name)}{nearest(name, usable)}")

    def _check_policies(self, policies: Mapping[str, FeaturePolicy], where: str) -> None:
        for segment, policy in policies.items():
            if segment not in (EVERYBODY, *self.dynamix.segments):
                raise ConfigError(f"{where} names the segment {shown(segment)}{nearest(segment, (EVERYBODY, *self.dynamix.segments))}")
            policy.select(self.policed_streams if segment != EVERYBODY else self.streams)

    @property
    def policed_streams(self) -> dict[str, StreamConfig]:
        """The streams as the policy of all users leaves them."""
        return self.feature_policy.get(EVERYBODY, FeaturePolicy()).select(self.streams)

    @property
    def segment_policies(self) -> dict[str, FeaturePolicy]:
        """Segment -> what is read of its users; empty where all are treated alike."""
        return {segment: policy for segment, policy in self.feature_policy.items() if segment != EVERYBODY}

    @property
    def segmented(self) -> bool:
        """Whether training rows are told apart by segment."""
        return bool(self.segment_policies or self.experiments)

    @property
    def model_name(self) -> str:
        """Under which name MLflow registers the user model."""
        return self.tracking.model_name or f"alure_user_model_{self.name}"

    def semantic_ids_name(self, attribute: str) -> str:
        """Under which name MLflow registers the quantiser of an embedding attribute."""
        return f"{self.model_name}_{attribute}_semantic_ids"

    @property
    def item_sources(self) -> tuple[str, ...]:
        """The streams whose items describe a user."""
        return self.embedding.sources or tuple(self.streams)

    @property
    def impression_attributes(self) -> dict[str, str]:
        """Attribute that is known before an ad is shown -> its kind."""
        return {name: self.streams[self.labels.impression_source].attributes[name] for name in self.labels.impression_attributes}

    def attribute_kinds(self) -> dict[str, str]:
        """Attribute name -> kind over all streams."""
        return {name: kind for stream in self.streams.values() for name, kind in stream.attributes.items()}

    def sequence_digest(self) -> str:
        """Hash of what decides the rows of user_sequences, 16 hex digits: rows of another digest cannot be gone on from."""
        return _digest(as_dict(self)["streams"])

    def vocabulary_digest(self) -> str:
        """Hash of what decides which ids have a row in the vocabularies, 16 hex digits."""
        return _digest([as_dict(self)["vocabulary"], sorted(self.attribute_kinds().items())])

    def digest(self) -> str:
        """Hash of everything that decides what is computed (not of where it runs), 16 hex digits."""
        settled = as_dict(self, younger=False)
        return _digest({key: value for key, value in settled.items() if key not in ("lake", "spark", "tracking", "name")})


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def as_dict(config: Any, younger: bool = True) -> dict[str, Any]:
    """The dataclass as plain YAML-able values; without `younger`, settings that came later are left out where they are at their default."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            kept = [
                item
                for item in dataclasses.fields(value)
                if younger or "younger" not in item.metadata or getattr(value, item.name) != item.default
            ]
            return {item.name: plain(getattr(value, item.name)) for item in kept}
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, tuple | list) else value

    result: dict[str, Any] = plain(config)
    return result


def build(cls: type[T], values: Mapping[str, Any] | None, path: str = "") -> T:
    """An instance of the dataclass from nested plain values.

    Raises ConfigError on an unknown key (naming the nearest known one) or a value of the wrong type.
    """
    values = {} if values is None else values
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path or 'the configuration'} is {shown_at(values, path)}; allowed: a mapping")
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    known = [item.name for item in fields]
    arguments = {}
    for key, value in values.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in known:
            raise ConfigError(f"unknown configuration key {shown(where)}{nearest(str(key), known)}")
        arguments[key] = _convert(hints[key], value, where, key)
    for item in fields:
        if item.name not in arguments and item.default is MISSING and item.default_factory is MISSING:
            raise ConfigError(f"{path or 'the configuration'} lacks the key '{item.name}'")
    try:
        return cls(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}" if path and not str(error).startswith(path.split(".")[0]) else str(error)) from None


def _convert(hint: Any, value: Any, path: str, field: str) -> Any:
    """The value as the type hint wants it; field: the name that says how large a number may be (conf_checks)."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _convert(next(item for item in arguments if item is not type(None)), value, path, field)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, path)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{path} is {shown_at(value, path)}; allowed: a list")
        return tuple(_convert(arguments[0], item, f"{path}[{index}]", field) for index, item in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} is {shown_at(value, path)}; allowed: a mapping")
        return {str(key): _convert(arguments[1], item, f"{path}.{key}", field) for key, item in value.items()}
    if hint is Any:
        return plain(value, path)
    if hint is str and isinstance(value, date):  # YAML reads an unquoted time as one
        return value.isoformat()
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number if hint is float else isinstance(value, hint) and (number or hint is not int)):
        raise ConfigError(f"{path} is {shown_at(value, path)}; allowed: {hint.__name__}{_remedy(hint, value)}")
    if number:
        check_number(field, value, path)
    return float(value) + 0.0 if hint is float else value  # no -0.0


def _remedy(hint: Any, value: Any) -> str:
    """What YAML made of what was written, where it is known to surprise."""
    if hint is str and isinstance(value, bool):
        return " (without quotes YAML reads yes, no, on, off, true and false as booleans, also NO for Norway: put the text in quotes)"
    if hint is str and isinstance(value, int | float):
        return " (without quotes YAML reads it as a number: put the text in quotes)"
    if hint in (int, float) and isinstance(value, str) and re.fullmatch(r"[-+]?[0-9.]+[eE][-+]?[0-9]+", value):
        return " (YAML reads 1e-3 as text: write 1.0e-3, or 0.001)"
    return ""


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration in a YAML file, with overrides of the form 'a.b=c' applied (values are read as YAML)."""
    values = read_file(path)
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"{path} holds {shown(values)}; allowed: a mapping of sections")
    values = values or {}
    for override in overrides:
        _override(values, override)
    return build(Config, values)


def _override(values: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {shown(override)}: the form is a.b=value")
    name = f"{dotted.strip()}={MASK}" if dotted.strip().startswith(SECTIONS) and is_secret(dotted) else masked_text(override)
    *parents, last = keys
    for parent in parents:
        if values.get(parent) is None:
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict):
            raise ConfigError(f"--set {shown(name)}: {shown(parent)} holds a value, not a section")
    try:
        value = read_override(text, f"--set {dotted.strip()}")
    except ConfigError:
        if MASK not in name:
            raise
        raise ConfigError(f"--set {name}: the value is not valid YAML") from None
    values[last] = "" if value is None else value
