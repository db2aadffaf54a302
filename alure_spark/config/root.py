"""The whole configuration: its sections, and what no section tells by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from ..errors import ConfigError
from ..tables import EVENTS
from .dynamix import DynamixConfig
from .embedding import EmbeddingConfig
from .evaluate import EvaluateConfig
from .graph import GraphConfig
from .inference import InferenceConfig
from .ingest import IngestConfig
from .labels import LabelConfig
from .lake import LakeConfig
from .model import ModelConfig
from .names import RunName, check_streams
from .policies import EVERYBODY, ExperimentConfig, FeaturePolicy
from .ranking import TRANSFERRED, RankingConfig
from .retrieval import RetrievalConfig
from .rules import require_known
from .section import Section, Since, as_dict, digest_of
from .semantic_ids import SemanticIdConfig
from .similarity import SimilarityConfig
from .source import SourceConfig
from .spark import SparkConfig
from .streams import StreamConfig
from .time import TimeConfig
from .tracking import TrackingConfig
from .training import TrainingConfig
from .transfer import TransferConfig
from .users import UsersConfig
from .vocabulary import VocabularyConfig

NUMERIC_EVENT_COLUMNS = ("dwell_ms", "value", "position")  # of every stream
COUNTED_UNTIL = "2026-11-27"  # what came later (Since) counts in the digest of a conf where it is not at its default
PLACES = ("lake", "spark", "tracking", "name")  # where a job runs and what it is called, not what is computed


@dataclass(frozen=True)
class Config(Section):
    """Everything a job needs to know. Sections that only say where a job runs are not part of `digest`."""

    name: RunName = "run"
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
    ranking: Annotated[RankingConfig, Since("2026-11-30")] = field(default_factory=RankingConfig)
    feature_policy: Mapping[str, FeaturePolicy] = field(default_factory=dict)  # segment -> policy, within that of 'all'
    experiments: Mapping[str, ExperimentConfig] = field(default_factory=dict)  # what jobs/compare_policies.py tries
    similarity: Annotated[SimilarityConfig, Since("2026-11-30")] = field(default_factory=SimilarityConfig)
    users: Annotated[UsersConfig, Since("2026-11-30")] = field(default_factory=UsersConfig)
    transfer: Annotated[TransferConfig, Since("2026-11-30")] = field(default_factory=TransferConfig)

    def check_together(self) -> None:
        if not self.streams and not self.ranking.ready_made:
            raise ConfigError("streams is empty: declare at least one source, e.g. streams: {purchase: {}}")
        check_streams({name: stream.attributes for name, stream in self.streams.items()})
        self._check_kinds()
        self._check_sources()
        self._check_tasks()
        self._check_policies(self.feature_policy, "feature_policy")
        for name, experiment in self.experiments.items():
            self._check_policies(experiment.policy, f"experiments.{name}.policy")
            if experiment.against:
                require_known(f"experiments.{name}.against", experiment.against, self.experiments)
        embeddings = [name for name, kind in self.attribute_kinds().items() if kind == "embedding"]
        for name in self.model.embedding_dimensions:
            require_known("model.embedding_dimensions", name, embeddings)
        of_impressions = self.streams.get(self.labels.impression_source, StreamConfig()).attributes
        usable = [name for name, kind in of_impressions.items() if kind in ("categorical", "numeric")]
        for name in self.labels.impression_attributes:
            require_known("labels.impression_attributes", name, usable)
        if self.ranking.upstream.model == self.ranking_name:
            raise ConfigError(f"ranking.upstream.model is '{self.ranking_name}', which is this conf's own; allowed: another ranking model")
        for name, one in self.ranking.fields.items():
            if one.reads in TRANSFERRED and not self.transfer.layer:
                raise ConfigError(f"ranking.fields.{name} reads {one.reads}, but transfer.layer is empty: set it, e.g. to hidden")
        self._check_standalone()
        for name, its in self.transfer.downstream.items():
            for task in its.tasks:
                require_known(f"transfer.downstream.{name}.tasks", task, self.labels.declared, "task")
        self.ranking.check_declared(self.streams, self.impression_attributes, self.users.attributes, self.labels.heads, self.labels.sums)

    def _check_kinds(self) -> None:
        """An attribute has one kind in all streams, and that of its column where it is a column of `events`."""
        kinds: dict[str, str] = {}
        types = {column.name: column.type for column in EVENTS.columns}
        for stream, config in self.streams.items():
            for attribute, kind in config.attributes.items():
                path = f"streams.{stream}.attributes.{attribute}"
                if kinds.setdefault(attribute, kind) != kind:
                    raise ConfigError(f"{path} is '{kind}' but '{kinds[attribute]}' in another stream")
                known = types.get(attribute)
                is_text = kind == "numeric" and known in ("STRING", "TIMESTAMP")
                if known and (is_text or (kind == "embedding") != (known == "ARRAY<FLOAT>")):
                    raise ConfigError(f"{path} is '{kind}', but its type is {known}")

    def _check_sources(self) -> None:
        """What settings call a source is a stream."""
        named: dict[str, Iterable[str]] = {
            "ingest.dwell_from_next": self.ingest.dwell_from_next,
            "embedding.sources": self.embedding.sources,
            "evaluate.item_sources": self.evaluate.item_sources,
            "retrieval.event_weights": self.retrieval.event_weights,
            "retrieval.account_weights": self.retrieval.account_weights,
            "retrieval.excluded_by": self.retrieval.excluded_by,
            "labels.impression_source": [self.labels.impression_source],
            "labels.click_source": [self.labels.click_source],
            "labels.conversion_source": [self.labels.conversion_source],
            **{f"labels.tasks.{name}.source": [task.source] for name, task in self.labels.tasks.items()},
            "dynamix.impression_source": [self.dynamix.impression_source],
            "dynamix.conversion_sources": self.dynamix.conversion_sources,
            "similarity.sources": self.similarity.sources,
        }
        for path, sources in named.items():
            # What these settings name where nobody sets them need not be in the log.
            defaulted = path.startswith(("retrieval", "labels", "dynamix")) and not path.startswith("labels.tasks")
            defaults = {"ad_impression", "ad_click", "conversion"} if defaulted else set()
            for source in sources:
                if source not in defaults:
                    require_known(path, source, self.streams, "source")

    def _check_tasks(self) -> None:
        """What tasks count is a number of their stream; weights are of tasks."""
        for name, task in self.labels.tasks.items():
            attributes = self.streams[task.source].attributes
            known = {*NUMERIC_EVENT_COLUMNS, *(one for one, kind in attributes.items() if kind == "numeric")}
            for setting, columns in (("at_least", task.at_least), ("sum", [task.sum] if task.sum else [])):
                for column in columns:
                    require_known(f"labels.tasks.{name}.{setting}", column, sorted(known), "numeric column")
        for name in self.training.objectives.tasks:
            require_known("training.objectives.tasks", name, self.labels.heads, "task")

    def _check_standalone(self) -> None:
        """A head is searched against vectors that are extracted, and learns from a label that is 0 or 1."""
        if not self.transfer.retrieval.head:
            return
        if not self.transfer.layer:
            raise ConfigError("transfer.retrieval.head is set, but transfer.layer is empty: set it, e.g. to hidden")
        require_known("transfer.retrieval.task", self.transfer.retrieval.task, self.labels.heads, "task")

    @property
    def ranking_tasks(self) -> tuple[str, ...]:
        """What the ranking model predicts."""
        return self.ranking.tasks or self.labels.heads

    @property
    def ranking_values(self) -> tuple[str, ...]:
        """Those of them whose label is a number."""
        sums = self.ranking.values if self.ranking.ready_made else self.labels.sums
        return tuple(task for task in self.ranking_tasks if task in sums)

    @property
    def ranking_name(self) -> str:
        """Under which name MLflow registers the ranking model."""
        return f"{self.model_name}_ranking"

    @property
    def retrieval_name(self) -> str:
        """Under which name MLflow registers the head of transfer.retrieval."""
        return f"{self.model_name}_retrieval"

    def _check_policies(self, policies: Mapping[str, FeaturePolicy], path: str) -> None:
        for segment, policy in policies.items():
            require_known(path, segment, (EVERYBODY, *self.dynamix.segments), "segment")
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
        """Whether there are training rows per segment."""
        return bool(self.segment_policies or self.experiments)

    @property
    def parts(self) -> dict[str, bool]:
        """Part of the chain that not everybody needs -> whether the conf asks for it (jobs/pipeline.py)."""
        asked = {"transferred": self.transfer.layer, "standalone": self.transfer.retrieval.head, "ranked": self.ranking.fields}
        return {name: bool(value) for name, value in asked.items()}

    @property
    def model_name(self) -> str:
        """Under which name MLflow registers the user model."""
        return self.tracking.model_name or f"alure_user_model_{self.name}"

    def semantic_ids_name(self, attribute: str) -> str:
        """Under which name MLflow registers the quantizer of an embedding attribute."""
        return f"{self.model_name}_{attribute}_semantic_ids"

    @property
    def item_sources(self) -> tuple[str, ...]:
        """The streams whose items describe a user."""
        return self.embedding.sources or tuple(self.streams)

    @property
    def similarity_sources(self) -> tuple[str, ...]:
        """The streams whose events are edges of the graph that similarity is learned from, as the policy of all users leaves them."""
        named = self.similarity.sources or (self.labels.click_stream,)
        return tuple(source for source in named if source in self.policed_streams)

    @property
    def impression_attributes(self) -> dict[str, str]:
        """Attribute that is known before an ad is shown -> its kind."""
        return {name: self.streams[self.labels.impression_source].attributes[name] for name in self.labels.impression_attributes}

    def attribute_kinds(self) -> dict[str, str]:
        """Attribute name -> kind over all streams."""
        return {name: kind for stream in self.streams.values() for name, kind in stream.attributes.items()}

    def sequence_digest(self) -> str:
        """Hash of what decides the rows of user_sequences, 16 hex digits: rows of another digest cannot be gone on from."""
        return digest_of(as_dict(self)["streams"])

    def vocabulary_digest(self) -> str:
        """Hash of what decides which ids have a row in the vocabularies, 16 hex digits."""
        return digest_of([as_dict(self)["vocabulary"], sorted(self.attribute_kinds().items())])

    def digest(self) -> str:
        """Hash of everything that decides what is computed (not of where it runs), 16 hex digits."""
        return digest_of({name: value for name, value in as_dict(self, COUNTED_UNTIL).items() if name not in PLACES})
