"""training_examples, ads -> item_representations and cross_representations at one as_of, by the champion of the user model (LFM4Ads).

They are what other models may read of it beside the user embedding, as of the day: fields of the ranking model read them as
`user.cross`, `ad.cross` and `ad.representation`. With transfer.align a new version is turned into the space of the one before (alignments).
"""

from __future__ import annotations

from alure_spark.errors import ConfigError
from alure_spark.events.alignment_table import write_alignments
from alure_spark.inference.registered import champion
from alure_spark.inference.transfer_tables import days_to_sum, write_representations
from alure_spark.inference.user_table import require_trained_before
from alure_spark.lake import JobRun, as_of_scope
from alure_spark.running import Context, Job, Report


def extract(context: Context, run: JobRun) -> Report:
    config = context.config
    if not config.transfer.layer:
        raise ConfigError("transfer.layer is empty: say which layer of the user model is the cross representation, e.g. hidden")
    artifact = champion(config, context.tracker)
    require_trained_before(artifact, config)
    context.tracker.set_tag("alure.model_id", artifact.model_id)
    ends, why = days_to_sum(run, config, artifact)
    metrics = write_representations(run, config, artifact, ends)
    metrics |= write_alignments(run, config, artifact.model_id)
    how = f"{config.time.as_of}: {len(ends)} of {config.transfer.window_days} days read, {why}"
    return Report(metrics, texts={"extract_representations/how.txt": how})


JOB = Job(
    "extract_representations",
    "what the user model knows of ads, and of users and ads together, for other models",
    ("training_examples", "ads", "cross_sums", "user_embeddings", "alignments"),
    ("cross_sums", "cross_representations", "item_representations", "alignments"),
    lambda config: as_of_scope(config.time.as_of_ms),
    extract,
)

if __name__ == "__main__":
    JOB.main()
