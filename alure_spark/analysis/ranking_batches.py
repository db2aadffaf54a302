"""The registered ranking model and the impressions that it reads, as its training packed them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

from pyspark.sql import functions as F

from ..batches.vocabulary import Vocabulary
from ..config import Config
from ..events.ranking_tables import training_rows
from ..inference.ranking_rows import require_fields
from ..lake import JobRun, workspace
from ..packed.segments import Segments, segment_loaders
from ..ranking.artifact import RankingArtifact
from ..ranking.network import RankingNetwork


class RankingBatches(NamedTuple):
    """A network in evaluation mode, the vocabulary it reads ids by, and its batches: impressions of both splits."""

    network: RankingNetwork
    vocabulary: Vocabulary
    loader: Segments


@contextmanager
def ranking_batches(run: JobRun, config: Config, artifact: RankingArtifact, name: str) -> Iterator[RankingBatches]:
    """The rows of as_of, packed in a folder of lake.scratch that the name and the run's id name, and that goes with the block.

    Raises as require_fields.
    """
    network, vocabulary = artifact.network()
    rows = training_rows(run, config, str(artifact.facts.get("embedding_model_id", ""))).where(F.size("time_ms") > 0)
    require_fields(artifact, config.ranking, rows.columns)
    training = replace(config.training, batch_users=config.ranking.batch_users, seed=config.ranking.seed)
    folder = f"{name}-{run.run_id}"
    with segment_loaders(rows, artifact.spec.layout(), vocabulary, training, workspace(config.lake), folder) as packed:
        yield RankingBatches(network, vocabulary, packed.decoding(artifact.spec, vocabulary))
