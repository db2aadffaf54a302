"""Writes `cross_sums`, `cross_representations` and `item_representations` of one as_of by the registered user model.

Enters: `training_examples` of as_of, an `Artifact`, a run of the lake. Only the days that no run has summed by this model are read, and
those of which users were forgotten, events came in, or impressions were held back since.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from .. import __version__
from ..clock import NEVER_MS, format_time, parse_time
from ..config import Config
from ..errors import DataError
from ..lake import JobRun, Lake, as_of_scope, resumable_folder, workspace
from ..lake.arrivals import BRING_EVENTS, came_in
from ..model.artifact import Artifact
from .cross_table import cross_sums, decaying_means, window_ends
from .item_table import item_rows
from .storage import with_bits

SUMMED, FINAL_UNTIL = "summed_days", "final_until"  # facts of a run: ends of the days that it summed, and up to which none can change
JOBS = ("build_sequences", "extract_representations", "forget_users", *BRING_EVENTS)


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
    again = outdated(_runs(run.lake), there, config.time.as_of_ms if config.labels.negative_rate < 1 else NEVER_MS)
    left = [end for end in ends if end not in there or end in again]
    why = f", and {len(again)} once more: {'; '.join(sorted(set(again.values())))}" if again else ""
    return left, f"the days that were not summed yet{why}"


def _of_model(sums: DataFrame, config: Config, artifact: Artifact) -> DataFrame:
    """The sums that may be added: those of one model and layer."""
    return sums.where((F.col("model_id") == artifact.model_id) & (F.col("layer") == config.transfer.layer))


def _runs(lake: Lake) -> list[Row]:
    """What published runs of JOBS say that decides whether a day is summed anew, oldest first."""
    what = {"scope": "scope", "read": "inputs['events']", "wrote": "outputs['events']"}
    what |= {name: f"facts['{name}']" for name in ("known_from", SUMMED, FINAL_UNTIL)}
    published = lake.runs().where("status = 'published'").where(F.col("job").isin(*JOBS)).orderBy("finished")
    return published.select("job", *(F.expr(of).alias(name) for name, of in what.items())).collect()


def outdated(runs: Iterable[Row | Mapping[str, Any]], ends_ms: Collection[int], labels_ms: int) -> dict[int, str]:
    """Those of the days in `cross_sums` (their ends) that have to be read again -> why.

    runs: job, scope, read and wrote (versions of `events`) and facts of each, oldest first. A day is as its sequences were built, which
    may have been before events came in that the run which summed it could have read. So each day is compared with what happened since,
    whatever other days have been summed meanwhile. labels_ms: no label of later may have decided which impressions are in a sum
    (labels.negative_rate).
    """
    built, seen, why = dict[str, int](), dict[int, int](), dict[int, str]()
    added = list[tuple[int, str | None]]()  # version of events, known_from
    for row in runs:
        if row["job"] == "build_sequences":
            built[row["scope"]] = row["read"] or 0
        elif row["job"] == "forget_users":
            why |= dict.fromkeys(seen, "users were forgotten since")
        elif row["job"] != "extract_representations":
            added += [(row["wrote"], row["known_from"])] if row["wrote"] is not None else []
        elif row[SUMMED]:
            for end in map(parse_time, row[SUMMED].split(", ")):
                seen[end] = built.get(row["scope"], 0)
                why.pop(end, None)
                if parse_time(row["scope"].split("'")[1]) > labels_ms:
                    why[end] = "a run of a later day has summed them, by labels of later (labels.negative_rate)"
                if end > parse_time(row[FINAL_UNTIL]):
                    why[end] = "impressions were held back (labels.hold_back_immature)"
    for end in ends_ms:
        if end not in seen:
            why[end] = "it is not known what they were summed of"
        for version, known_from in added:
            if version > seen.get(end, 0) and (what := came_in(known_from, end)):
                why[end] = f"{what} came in since"
    return {end: why[end] for end in ends_ms if end in why}


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
        final_ms = as_of - (config.labels.window_ms if config.labels.hold_back_immature else 0)
        run.facts |= {SUMMED: ", ".join(map(format_time, ends_ms)), FINAL_UNTIL: format_time(final_ms)}
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
