"""The configuration: one frozen dataclass per section, a file each, with defaults and ranges; conf/*.yml holds values only.

`load("conf/demo.yml", ["graph.k2=10"])` reads YAML, applies dotted overrides and checks every key and value.
An unknown key is an error that names the nearest known one. `Config.digest` is the config hash that `runs` and MLflow carry.
"""

from .dynamix import ACTIVE, ALL_SURFACES, PASSIVE, DynamixConfig
from .embedding import EmbeddingConfig
from .evaluate import EvaluateConfig
from .exploration import THOMPSON, ExplorationConfig
from .graph import GRAPHS, FollowConfig, GraphConfig, PageRankConfig
from .inference import InferenceConfig
from .ingest import IngestConfig
from .labels import DEFAULT_TASKS, LabelConfig, TaskConfig
from .lake import LakeConfig
from .model import ROTARY_PAIRS, ModelConfig
from .names import one_spelling
from .online import OnlineConfig
from .policies import EVERYBODY, ExperimentConfig, FeaturePolicy
from .ranking import DECAYED, KIND_OF, OF_SAME, TRANSFERRED, ExpertConfig, FieldConfig, RankingConfig, SequenceConfig
from .ranking_loss import LossConfig, RepeatConfig
from .reading import build, load
from .retrieval import RetrievalConfig
from .root import Config
from .section import Since, as_dict
from .semantic_ids import SemanticIdConfig
from .similarity import SimilarityConfig
from .source import SourceConfig
from .spark import SparkConfig
from .standalone import StandaloneConfig
from .streams import StreamConfig
from .time import TimeConfig
from .tracking import TrackingConfig
from .training import ObjectiveConfig, TrainingConfig
from .transfer import ADAPTERS, CROSS_LAYERS, DownstreamConfig, TransferConfig
from .upstream import ALTERNATING, COPIED, FINE_TUNED, FROZEN, OWN, UpstreamConfig
from .users import OF_JOBS, UsersConfig
from .vocabulary import VocabularyConfig

__all__ = [
    "ACTIVE", "ADAPTERS", "ALL_SURFACES", "ALTERNATING", "COPIED", "CROSS_LAYERS", "DECAYED", "DEFAULT_TASKS", "EVERYBODY", "FINE_TUNED",
    "FROZEN", "GRAPHS", "KIND_OF", "OF_JOBS", "OF_SAME", "OWN", "PASSIVE", "ROTARY_PAIRS", "THOMPSON", "TRANSFERRED",
    "Config", "DownstreamConfig", "DynamixConfig", "EmbeddingConfig", "EvaluateConfig", "ExperimentConfig", "ExpertConfig",
    "ExplorationConfig", "FeaturePolicy", "FieldConfig", "FollowConfig", "GraphConfig", "InferenceConfig", "IngestConfig", "LabelConfig",
    "LakeConfig", "LossConfig", "ModelConfig", "ObjectiveConfig", "OnlineConfig", "PageRankConfig", "RankingConfig", "RepeatConfig",
    "RetrievalConfig", "SemanticIdConfig", "SequenceConfig", "SimilarityConfig", "Since", "SourceConfig", "SparkConfig",
    "StandaloneConfig", "StreamConfig", "TaskConfig", "TimeConfig", "TrackingConfig", "TrainingConfig", "TransferConfig", "UpstreamConfig",
    "UsersConfig", "VocabularyConfig",
    "as_dict", "build", "load", "one_spelling",
]  # fmt: skip
