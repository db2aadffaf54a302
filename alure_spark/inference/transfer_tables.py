"""Writes `cross_sums`, `cross_representations` and `item_representations` of one as_of by the registered user model.

Enters: `training_examples` of as_of, an `Artifact`, a run of the lake. Only the days that no run has summed by this model are read again,
unless users were forgotten or older events came in since: then all days of the window are.
"""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from .. import __version__
from ..clock import format_time, parse_time
from ..config import Config
from ..errors import DataError
from ..lake import JobRun, Lake, as_of_scope, resumable_folder, workspace
from ..model.artifact import Artifact
from .cross_table import cross_sums, decaying_means, window_ends
from .item_table import item_rows
from .storage import with_bits


def days_to_sum(run: JobRun, config: Config, artifact: Artifact) -> tuple[list[int], str]:
    """(ends of the days whose impressions have to be read, why so)."""
    ends = window_ends(config.transfer, config.time.as_of_ms)
    sums = run.read_if_published("cross_sums")
    if sums is None:
        return ends, "all days of the window: there are no sums yet"
    there = {
        row["end_ms"] for row in _of_model(sums, config, artifact).select(F.unix_millis("as_of").alias("end_ms")).distinct().collect()
    } & set(ends)
    if not there:
        return ends, f"all days of the window: none was summed by {artifact.model_id}, layer {config.transfer.layer}"
    if why := changed(run.lake, max(there)):
        return ends, f"all days of the window: {why}"
    return [end for end in ends if end not in there], "the days that were not summed yet"


def _of_model(sums: DataFrame, config: Config, artifact: Artifact) -> DataFrame:
    """The sums that may be added: those of one model and layer."""
    return sums.where((F.col("model_id") == artifact.model_id) & (F.col("layer") == config.transfer.layer))


def changed(lake: Lake, newest_ms: int) -> str:
    """What has happened, since the last run of extract_representations, to what it read up to newest_ms; '' where nothing has."""
    published = lake.runs().where("status = 'published'")
    last = published.where("job = 'extract_representations'").agg(F.max("finished").alias("at")).collect()[0]["at"]
    since = published.where(F.col("finished") > F.lit(last)) if last else published
    if not since.where("job = 'forget_users'").isEmpty():
        return "users were forgotten since"
    for added in since.where(F.col("job").isin("ingest_events", "replay_quarantine")).collect():
        known_from = (added["facts"] or {}).get("known_from")
        if known_from is not None and parse_time(known_from) < newest_ms:
            return f"events known from {known_from} on came in since"
    return ""


def write_representations(run: JobRun, config: Config, artifact: Artifact, ends_ms: list[int]) -> dict[str, float | None]:
    """Metrics. ends_ms: what `days_to_sum` gave. Raises DataError where no impression of the window is known."""
    transfer, as_of = config.transfer, config.time.as_of_ms
    run.lake.spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(config.inference.batch_users))
    examples = run.read("training_examples").where(as_of_scope(as_of))
    scope = f"as_of IN ({', '.join(f'TIMESTAMP {format_time(end)!r}' for end in ends_ms)})"
    metrics: dict[str, float | None] = {"days_summed": len(ends_ms)}
    if ends_ms:
        content = (__version__, artifact.model_id, config.digest(), config.time.as_of, ends_ms, sorted(run.inputs.items()))
        with resumable_folder(workspace(config.lake), "representations", content) as folder:
            sums = cross_sums(examples, artifact, config.inference, transfer.layer, ends_ms, folder)
            metrics["sums"] = run.write("cross_sums", sums, scope)
    sums = run.written("cross_sums") if ends_ms else run.read("cross_sums")
    means = decaying_means(_of_model(sums, config, artifact), transfer, as_of)
    if not run.write("cross_representations", with_bits(means, transfer.bits), as_of_scope(as_of)):
        raise DataError(
            f"no impression became known in the {transfer.window_days} days before {config.time.as_of}: there is nothing to extract"
        )
    made = run.written("cross_representations").where(as_of_scope(as_of)).groupBy("kind").count().collect()
    metrics |= {f"cross.{row['kind']}s": float(row["count"]) for row in made}
    if (ads := run.read_if_published("ads")) is not None:
        rows = item_rows(ads, artifact, config.inference, transfer.layer, as_of)
        metrics["items"] = run.write("item_representations", with_bits(rows, transfer.bits), as_of_scope(as_of))
    return metrics
