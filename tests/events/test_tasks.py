"""Tasks as the conf declares them: labels against plain loops, and tables of before there were any."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pyspark.sql import functions as F

from alure_spark.attribution import count_responses, sentences
from alure_spark.config import Config, LabelConfig, LakeConfig, TaskConfig, build
from alure_spark.errors import ConfigError
from alure_spark.events.examples import matched_responses, training_examples
from alure_spark.events.ranking_examples import ranking_examples
from alure_spark.lake import Lake, as_of_scope, content_hash, timestamp
from alure_spark.tables import TABLES, TRAINING_EXAMPLES, Column
from tests import oracle
from tests.events.logs import AS_OF, HOUR, LABELS, START, STREAMS, frame, log, world
from tests.lake.small_lake import CONFIG

TASKS = {
    "spent": TaskConfig("conversion", 25 / HOUR, sum="value"),
    "click": TaskConfig("ad_click", 10 / HOUR),
    "large": TaskConfig("conversion", 25 / HOUR, at_least={"value": 5.0}),
    "viewed": TaskConfig("organic", 7 / HOUR),
}
EMBEDDINGS = "user_id string, as_of timestamp, embedding array<float>, model_id string"
DECLARED = replace(LabelConfig(validation_days=LABELS.validation_days, max_impressions=5), tasks=TASKS)


def expected(events, user):
    """Task -> labels of the user's impressions, by loops."""
    shown = sorted(oracle.history(events, user, "ad_impression", AS_OF), key=lambda event: (event["event_time"], event["hash"]))
    found = {name: [0] * len(shown) for name in TASKS}
    for name, task in TASKS.items():
        for response in oracle.history(events, user, task.source, AS_OF):
            row, _ = oracle.impression_of(response, shown)
            late = row is None or response["event_time"] - row["event_time"] > task.window_hours * HOUR
            if late or any(response[column] < least for column, least in task.at_least.items()):
                continue
            place = shown.index(row)
            found[name][place] = found[name][place] + response["value"] if task.sum else 1
    return {name: values[-DECLARED.max_impressions :] for name, values in found.items()}


def test_labels_of_declared_tasks_agree_with_plain_loops(spark):
    events = world(oracle.cases_of(log, 300))
    clean = frame(spark, events).persist()
    rows = training_examples(clean, STREAMS, DECLARED, AS_OF).persist()
    assert [rows.schema[name].dataType.simpleString() for name in TASKS] == ["array<double>", *["array<int>"] * 3]
    found = {row["user_id"]: {name: row[name] for name in TASKS} for row in rows.collect()}
    assert found == {user: expected(events, user) for user in found}
    assert all(sum(sum(row[name]) for row in found.values()) > 5 for name in TASKS), "the world has responses of every task"
    counted = count_responses(matched_responses(clean, DECLARED, AS_OF), DECLARED)
    assert counted["large"].responses < counted["spent"].responses
    assert any("came after labels.tasks.viewed.window_hours" in line for line in sentences(counted, DECLARED))
    logged = ranking_examples(rows, spark.createDataFrame([], EMBEDDINGS), 0, tasks=TASKS)
    assert logged.agg(F.sum("spent")).first()[0] == sum(sum(row["spent"]) for row in found.values())


@pytest.mark.parametrize("values", [(1e13, 0.25), (5e12, 5e12), (-1e13, 1e-7), (3e38, 3e38, -3e38)])
def test_a_sum_of_any_numbers_that_ingestion_takes_is_a_label(spark, values):
    shown = dict(source="ad_impression", event_time=START + 1, delay=None, item_id="a", country="X", category_id=None, by_id=False)
    paid = [dict(shown, source="conversion", event_time=START + 2 + n) for n in range(len(values))]
    events = world([[shown, *paid]])
    for event, value in zip([event for event in events if event["source"] == "conversion"], values, strict=True):
        event["value"] = value
    declared = replace(DECLARED, tasks={name: TASKS[name] for name in ("viewed", "spent")})
    rows = training_examples(frame(spark, events), STREAMS, declared, AS_OF)
    (label,) = rows.first()["spent"]
    most = 1e25
    assert label == pytest.approx(sum(min(max(value, -most), most) for value in values), abs=1e-6)


def test_click_and_conversion_declared_as_tasks_are_the_two_of_before(spark):
    clean = frame(spark, world(oracle.cases_of(log, 100))).persist()
    assert LABELS.declared.keys() == {"click", "conversion"}
    declared = LabelConfig(tasks=LABELS.declared, validation_days=LABELS.validation_days, max_impressions=5, negative_rate=0.5)
    before = replace(LABELS, negative_rate=0.5)
    assert content_hash(training_examples(clean, STREAMS, declared, AS_OF)) == content_hash(
        training_examples(clean, STREAMS, before, AS_OF)
    )


def test_a_table_in_which_click_was_always_there_takes_rows_of_other_tasks(spark, tmp_path, monkeypatch):
    lake = Lake(spark, LakeConfig(f"{tmp_path}/lake"))
    clean = frame(spark, world(oracle.cases_of(log, 30))).persist()

    def publish(declared, as_of):
        with lake.run("build_sequences", CONFIG, "true") as run:
            run.write("training_examples", training_examples(clean, STREAMS, declared, as_of), as_of_scope(as_of))

    labels = tuple(Column(name, "ARRAY<INT>", "", required=True) for name in ("click", "conversion"))
    with monkeypatch.context() as earlier:  # the release before tasks
        before = replace(TRAINING_EXAMPLES, version=1, columns=TRAINING_EXAMPLES.columns + labels)
        earlier.setitem(TABLES, "training_examples", before)
        publish(LABELS, AS_OF)
    assert not spark.sql(f"SELECT * FROM {lake.location('training_examples')}").schema["click"].nullable
    publish(DECLARED, AS_OF + 1)
    lake.refresh()
    there = lake.read("training_examples")
    of_old, of_new = (there.where(F.col("as_of") == timestamp(AS_OF + day)).persist() for day in (0, 1))
    assert of_old.where("click IS NULL OR spent IS NOT NULL").isEmpty()
    assert of_new.where("conversion IS NOT NULL OR spent IS NULL").isEmpty()
    assert not of_old.isEmpty()
    assert not of_new.isEmpty()
    rows = spark.sql(f"SHOW TBLPROPERTIES {lake.location('training_examples')}").collect()
    assert {row["key"]: row["value"] for row in rows}["alure.schema_version"] == str(TRAINING_EXAMPLES.version) == "2"


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        ({"split": {"source": "ad_click"}}, "labels.tasks names 'split'"),
        ({"Click": {"source": "ad_click"}}, "labels.tasks names 'Click'"),
        ({"neighbour": {"source": "ad_click"}}, "labels.tasks names 'neighbour'"),
        ({"like": {}}, "labels.tasks.like lacks the key 'source'"),
        ({"like": {"source": "lkie"}}, "labels.tasks.like.source names the source 'lkie'"),
        ({"like": {"source": "like", "at_least": {"category_id": 1}}}, "labels.tasks.like.at_least names the numeric column 'category_id'"),
        (
            {"like": {"source": "like"}, "paid": {"source": "like", "sum": "valu"}},
            "labels.tasks.paid.sum names the numeric column 'valu'; did you mean 'value'",
        ),
        ({"money": {"source": "like", "sum": "value"}}, "labels.tasks has sums only"),
        ({"like": {"source": "like", "window_hours": 0}}, "labels.tasks.like.window_hours is 0"),
        ({"impression": {"source": "like"}}, "labels.tasks names 'impression'"),
        ({"like": {"source": "ad_impression"}}, "labels.tasks.like.source is 'ad_impression'; allowed: a stream of responses"),
    ],
)
def test_a_task_that_cannot_be_is_one_sentence(tasks, says):
    with pytest.raises(ConfigError) as raised:
        build(Config, {"streams": {"like": {"attributes": {"category_id": "categorical"}}}, "labels": {"tasks": tasks}})
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_old_settings_beside_tasks_are_refused_and_weights_are_of_tasks():
    like = {"streams": {"like": {}}, "labels": {"tasks": {"like": {"source": "like"}}}}
    with pytest.raises(ConfigError, match="labels.click_window_hours is set .*: write it as labels.tasks.click.window_hours"):
        build(Config, like | {"labels": like["labels"] | {"click_window_hours": 3}})
    with pytest.raises(ConfigError, match="training.objectives.tasks names the task 'lkie'; did you mean 'like'"):
        build(Config, like | {"training": {"objectives": {"tasks": {"lkie": 2}}}})
    objectives = build(Config, like | {"training": {"objectives": {"tasks": {"like": 2}}}}).training.objectives
    assert objectives.weights(("like",)) == {"like": 2.0, "neighbour": 1.0, "next_item": 0.2}
