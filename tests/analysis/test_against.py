"""evaluate --against a run of which the lake has kept the row and not the table's version."""

from __future__ import annotations

import pytest
from pyspark.sql import functions as F

from alure_spark.analysis.evaluation_table import SCHEMA, earlier_rows
from alure_spark.errors import LakeError
from alure_spark.lake import as_of_scope
from alure_spark.running import open_context
from tests.conftest import ROOT, load, overrides


@pytest.mark.slow
def test_a_run_whose_version_was_vacuumed_is_one_sentence_that_names_the_setting(spark, tmp_path):
    context = open_context(load(ROOT / "conf" / "test.yml", overrides(tmp_path)))
    lake, config, runs = context.lake, context.config, []
    scope = as_of_scope(config.time.as_of_ms)
    row = ("u1", "DE", config.digest(), "ads", "pipeline", False, 0.5, 0.5)
    for recall in (0.5, 0.6):
        with lake.run("evaluate", config, scope) as run:
            frame = spark.createDataFrame([(*row[:6], recall, 0.5)], SCHEMA)
            run.write("evaluation_users", frame.withColumn("as_of", F.timestamp_millis(F.lit(config.time.as_of_ms))), scope)
        runs.append(run.run_id)

    def earlier(run_id):
        return earlier_rows(lake, context.tracker, run_id, config.lake.vacuum_hours)

    assert earlier(runs[0])["recall"].tolist() == [0.5]
    lake.vacuum("evaluation_users", 0)
    spark.catalog.clearCache()
    assert earlier(runs[1])["recall"].tolist() == [0.6]
    with pytest.raises(LakeError, match=rf"--against {runs[0]}: version \d+ of evaluation_users .* lake.vacuum_hours \("):
        earlier(runs[0])
