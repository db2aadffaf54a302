"""Representations of the user model through the lake: what is in them and when, a day at a time, and as fields of the ranking model."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from pyspark.sql import functions as F

from alure_spark.analysis.transfer_layers import layer_representations, published_days
from alure_spark.clock import DAY_MS
from alure_spark.config import DownstreamConfig, FieldConfig, TransferConfig, load
from alure_spark.errors import ConfigError, DataError
from alure_spark.events.ranking_tables import candidates_to_score, embedding_model, field_tables, representation_ages, training_rows
from alure_spark.inference.cross_table import cross_sums
from alure_spark.inference.registered import champion, promote, register
from alure_spark.inference.representations import RepresentationReader
from alure_spark.lake import JobRun, as_of_scope, workspace
from alure_spark.model.artifact import Artifact
from alure_spark.privacy import identity
from alure_spark.running import run_jobs
from alure_spark.training import challenger, ranking_challenger
from jobs import build_sequences, compare_transfer, extract_representations, forget_users, train_model, train_ranking
from tests.conftest import ROOT, overrides, own_spark
from tests.transfer_lake import FIRST, HALF_LIFE, WINDOW, context_at, copied

SHOWN = ("impression_id", "time_ms", "ad_id", "account_id", "label_age_ms", "weight", "split", "shown_known_at_ms", "click", "conversion")


def rows(context, name, as_of_ms):
    return in_order(context.lake.read(name).where(as_of_scope(as_of_ms)))


def in_order(frame):
    found = pd.DataFrame(frame.toArrow().to_pylist(), dtype=object)  # so that a hash stays whole beside a null
    keys = [one for one in ("kind", "user_id", "ad_hash") if one in found]
    return found.sort_values(keys, key=lambda column: column.astype(str)).reset_index(drop=True)


def examples(context, as_of_ms):
    """Rows of training_examples with an impression, each as a batch of one row."""
    table = context.lake.read("training_examples").where(as_of_scope(as_of_ms)).where(F.size("time_ms") > 0).toArrow()
    return [batch.slice(row, 1) for batch in table.to_batches() for row in range(batch.num_rows)]


def expected(context, as_of_ms):
    """(kind, id) -> (weight, mean): a plain walk over the users, each read by itself, and their impressions."""
    reader = RepresentationReader(champion(context.config, context.tracker), "hidden", context.config.inference)
    totals, weights = defaultdict(lambda: np.zeros(reader.width)), defaultdict(float)
    for one in examples(context, as_of_ms):
        row = one.select(["user_id", "segment", "shown_known_at_ms", "weight", "ad_id"]).to_pylist()[0]
        _, found = reader.read(one, row["segment"])
        for vector, known, weight, ad in zip(found, row["shown_known_at_ms"], row["weight"], row["ad_id"], strict=True):
            age = (as_of_ms - 1 - known) // DAY_MS
            if known >= as_of_ms or age >= WINDOW:
                continue
            share = 0.5 ** (age / HALF_LIFE) * weight
            for key in (("user", row["user_id"]), ("ad", ad)):
                totals[key] += share * vector
                weights[key] += share
    return {key: (weights[key], totals[key] / weights[key]) for key in weights}


def test_an_impression_is_read_by_what_was_known_before_it(days):
    """Alone, from a row whose later events and impressions are gone, it is the same as in the row that training has."""
    daily, _ = days
    reader = RepresentationReader(champion(daily.config, daily.tracker), "hidden", daily.config.inference)
    looked_at = 0
    for one in examples(daily, FIRST + DAY_MS)[:40:4]:
        row = one.to_pylist()[0]
        _, found = reader.read(one, row["segment"])
        place = len(row["time_ms"]) // 2
        moment = row["time_ms"][place]
        cut = dict(row)
        for name in [name for name in row if name.endswith("__known_at_ms")]:
            stream = name.removesuffix("__known_at_ms")
            kept = sum(at < moment for at in row[name])
            cut |= {column: row[column][:kept] for column in row if column.startswith(f"{stream}__") and column not in SHOWN}
            looked_at += len(row[name]) - kept
        cut |= {column: row[column][place : place + 1] for column in row if column in SHOWN or column.startswith("impression__")}
        _, alone = reader.read(pa.RecordBatch.from_pylist([cut], schema=one.schema), row["segment"])
        np.testing.assert_allclose(alone[0], found[place], atol=1e-9)
    assert looked_at > 50, "there were later events to look at"


def test_a_mean_holds_the_impressions_known_before_the_day_and_no_others(chain, days):
    daily, _ = days
    as_of = FIRST + DAY_MS
    truth = expected(daily, as_of)
    table = rows(daily, "cross_representations", as_of)
    assert len(table) == len(truth) > 100
    assert set(table["kind"]) == {"user", "ad"}
    for row in table.itertuples():
        weight, mean = truth[row.kind, row.user_id if row.kind == "user" else row.ad_hash]
        assert row.weight == pytest.approx(weight, rel=1e-6)
        np.testing.assert_allclose(row.representation, mean, atol=2e-6)
    shown = [at for one in examples(daily, as_of) for at in one.column("shown_known_at_ms").to_pylist()[0]]
    assert min(shown) < as_of - WINDOW * DAY_MS, "some impressions are too old to count"


def test_a_day_after_the_other_is_the_same_as_all_days_at_once(days):
    daily, _ = days
    as_of = FIRST + DAY_MS
    for name in ("cross_representations", "item_representations", "cross_sums"):
        mine, theirs = (rows(context, name, as_of) for context in days)
        assert len(mine)
        assert mine.astype(str).equals(theirs.astype(str)), name
    runs = daily.lake.runs().where("job = 'extract_representations' AND status = 'published'").orderBy("finished").collect()
    assert len(runs) == 2
    assert len(rows(daily, "cross_sums", FIRST - 3 * DAY_MS)), "the first run has summed every day of its window"


def test_a_run_again_gives_the_same_tables_and_reads_no_day(days):
    daily, _ = days
    as_of = FIRST + DAY_MS
    before = rows(daily, "cross_representations", as_of)
    run_jobs(daily, [extract_representations.JOB], "test")
    assert rows(daily, "cross_representations", as_of).astype(str).equals(before.astype(str))
    last = daily.lake.runs().where("job = 'extract_representations' AND status = 'published'").orderBy(F.desc("finished")).first()
    assert "cross_sums" not in last["outputs"], "nothing was left to sum"


def test_an_ad_has_the_vector_of_the_ad_tower_at_the_mean_context(days):
    daily, _ = days
    as_of = FIRST + DAY_MS
    table = rows(daily, "item_representations", as_of)
    begun = daily.lake.read("ads").where(F.unix_millis("active_from") < as_of).select("ad_hash").distinct().count()
    assert len(table) == begun > 10
    model, vocabulary = champion(daily.config, daily.tracker).model()
    readout, model = model.readout.double(), model.double()
    ad = daily.lake.read("ads").where(F.unix_millis("active_from") < as_of).orderBy(F.desc("active_from")).first()
    row = vocabulary.rows("item_id", np.array([ad["ad_hash"]]), None)
    account = daily.spark.sql(f"select xxhash64('{ad['account_id']}') h").first()["h"]
    item = model.encoder.item_vectors[torch.as_tensor(row)]
    vector = torch.cat([item, readout.fact_mean[-readout.context :][None]], dim=1)
    paid = readout.account.weight[torch.as_tensor(vocabulary.rows("account_id", np.array([account]), None))]
    others = sum((table.weight[0] for table in readout.tables.values()), torch.zeros(()))
    mine = (readout.ad(vector) + paid + others)[0].detach().numpy()
    found = np.array(table[table["ad_hash"] == ad["ad_hash"]]["representation"].iloc[0])
    np.testing.assert_allclose(found, mine, atol=2e-6)


FIELDS = {
    "of_user": FieldConfig("user.cross", "numbers", {"adapter": "nonlinear"}),
    "of_ad": FieldConfig("ad.cross", "numbers", {"adapter": "gate"}, group="ad"),
    "tower": FieldConfig("ad.representation", "numbers", {"adapter": "raw"}, group="ad"),
    "position": FieldConfig("impression.position", "numeral_systems", {"kind": "integer"}),
}


def reading(chain, folder, day, **more):
    """A context whose ranking model reads representations."""
    config = load(ROOT / "conf" / "test.yml", overrides(folder))
    return context_at(chain, folder, day, ranking=replace(config.ranking, fields=FIELDS, sequences={}, epochs=2), **more)


def folder_of(context):
    return Path(context.lake.root).parent


def test_a_field_reads_what_was_published_before_its_impression(chain, days):
    context = reading(chain, folder_of(days[0]), 1)
    run, config = JobRun(context.lake, "test", "", "true"), context.config
    model = embedding_model(run, config)
    assert model == f"{champion(config, context.tracker).model_id}/hidden"
    cross, items = (rows(context, name, FIRST) for name in ("cross_representations", "item_representations"))
    of_users = cross[cross["kind"] == "user"].set_index("user_id")["representation"]
    of_ads = cross[cross["kind"] == "ad"].set_index("ad_hash")["representation"]
    towers = items.set_index("ad_hash")["representation"]
    served_from = FIRST + config.embedding.publish_lag_ms
    names = ["user_id", "time_ms", "ad_id", *(f"impression__{name}" for name in ("of_user", "of_ad", "tower"))]
    seen = dict.fromkeys(FIELDS, 0)
    for row in training_rows(run, config, model).select(*names).collect():
        for place, (at, ad) in enumerate(zip(row["time_ms"], row["ad_id"], strict=True)):
            for name, table, key in (("of_user", of_users, row["user_id"]), ("of_ad", of_ads, ad), ("tower", towers, ad)):
                found = row[f"impression__{name}"][place]
                if at > served_from and key in table.index:
                    np.testing.assert_array_equal(found, table[key])
                    seen[name] += 1
                else:
                    assert found is None, "nothing was published before it"
    assert all(seen[name] > 10 for name in ("of_user", "of_ad", "tower"))


def test_a_ranking_model_learns_from_them_and_candidates_have_them(chain, days):
    context = reading(chain, folder_of(days[0]), 1)
    run_jobs(context, [train_ranking.JOB], "test")
    now = reading(chain, folder_of(days[0]), 0)
    run = JobRun(now.lake, "test", "", "true")
    candidates = candidates_to_score(run, now.config, embedding_model(run, now.config))
    scored = candidates.select(F.explode("impression__of_ad").alias("one")).where("one IS NOT NULL")
    assert scored.count() > 100, "a candidate reads those of as_of itself"
    with pytest.raises(DataError, match="the ranking model was trained on embeddings of alure-old/hidden, but the newest are of alure-"):
        candidates_to_score(run, now.config, "alure-old/hidden")


def in_other_numbers(artifact):
    """The same user model: what its ad tower says is rotated, the neurons of its last layer have changed places."""
    model, vocabulary = artifact.model()
    d, draw = model.spec.config.dimension, np.random.default_rng(3)
    rotation = torch.from_numpy(np.linalg.qr(draw.normal(size=(d, d)))[0]).float()
    places, readout = torch.from_numpy(draw.permutation(d)), model.readout
    first, last = readout.deep[0], readout.deep[-1]
    with torch.no_grad():
        model.encoder.item_weight[0] += 1  # of no item: the version has another id, and embeds users as before
        for layer in (readout.ad, *(readout.keys[source] for source in model.spec.sources)):
            layer.weight.copy_(rotation.T @ layer.weight)
            layer.bias.copy_(layer.bias @ rotation)
        for table in (readout.account, *(readout.tables[name] for name in readout.tables)):
            table.weight.copy_(table.weight @ rotation)
        first.weight[:, :d] = first.weight[:, :d] @ rotation
        first.weight.copy_(first.weight[places])
        first.bias.copy_(first.bias[places])
        last.weight.copy_(last.weight[:, places])
    return Artifact.of(model, vocabulary, artifact.facts)


def apart(mine, theirs):
    """Root of the squared distances over that of the distances to the mean."""
    return np.sqrt(((mine - theirs) ** 2).sum() / ((theirs - theirs.mean(axis=0)) ** 2).sum())


def test_a_new_version_is_read_in_the_space_of_the_one_before(chain, days, tmp_path):
    """By a ranking model that was trained on the old one, on the day on which the new one is the champion."""
    shutil.copytree(folder_of(days[0]), tmp_path, dirs_exist_ok=True)
    context = reading(chain, tmp_path, 1, transfer=TransferConfig("hidden", HALF_LIFE, WINDOW, align="rotation"))
    old, as_of = champion(context.config, context.tracker), FIRST + DAY_MS
    new = in_other_numbers(old)
    tags = {"alure.model_id": new.model_id, "alure.as_of": context.config.time.as_of, "alure.gate": "champion: planted"}
    promote(context.config, context.tracker, register(context.config, context.tracker, new, None, tags, "planted"))
    names = ("cross_representations", "item_representations")
    truth = {name: rows(context, name, as_of) for name in names}  # what the old version says on that day
    run_jobs(context, [extract_representations.JOB], "test")
    run, reads = JobRun(context.lake, "test", "", "true"), f"{old.model_id}/hidden"
    assert embedding_model(run, context.config) == reads
    assert representation_ages(run, context.config, reads) == dict.fromkeys(names, 0.0)
    tables = field_tables(run, reads)
    for name, most in zip(names, (0.25, 1e-3), strict=True):  # means of two days differ by a day; what the ad tower says of ads does not
        raw, was = rows(context, name, as_of), np.stack(truth[name]["representation"])
        assert set(raw["model_id"]) == {new.model_id}
        given = in_order(getattr(tables, name).where(as_of_scope(as_of)))
        assert set(given["model_id"]) == {old.model_id}
        assert apart(np.stack(raw["representation"]), was) > 0.8
        assert apart(np.stack(given["representation"]), was) < most
    run.read_if_published = lambda name: None if name == "alignments" else context.lake.read(name)
    assert representation_ages(run, context.config, reads) == dict.fromkeys(names, 1.0), (
        "without alignments it reads the old version's last rows"
    )


def test_two_user_models_in_one_ranking_model_are_refused(chain, days):
    context = reading(chain, folder_of(days[0]), 1)
    fields = FIELDS | {"taste": FieldConfig("user.embedding", "numbers")}
    config = replace(context.config, ranking=replace(context.config.ranking, fields=fields))
    run = JobRun(context.lake, "test", "", "true")
    assert embedding_model(run, config).endswith("/hidden")
    other = context.lake.read("user_embeddings").withColumn("model_id", F.lit("alure-other"))
    published = run.read_if_published
    run.read_if_published = lambda name: other if name == "user_embeddings" else published(name)
    with pytest.raises(DataError, match="fields of the ranking model would read two user models, user_embeddings of alure-other"):
        embedding_model(run, config)


DOWNSTREAM = {"first_places": DownstreamConfig("impression__position < 2", ("click",)), "everything": DownstreamConfig()}


def comparing(chain, folder, *names, downstream=DOWNSTREAM):
    """A context whose ranking model reads all kinds of representations, for a comparison with one seed."""
    transfer = TransferConfig("hidden", HALF_LIFE, WINDOW, downstream=downstream, compare=names, compare_seeds=(7,))
    context = reading(chain, folder, 1, transfer=transfer)
    fields = {"taste": FieldConfig("user.embedding", "numbers")} | FIELDS
    context.config = replace(context.config, ranking=replace(context.config.ranking, fields=fields, epochs=1))
    return context


@pytest.mark.parametrize(
    ("downstream", "names"),
    [
        (("first_places",), ("ur",)),
        pytest.param(tuple(DOWNSTREAM), ("ur", "ur_ir_cr", "layer_ad"), marks=pytest.mark.slow),
    ],
    ids=["one task", "two tasks and another layer"],
)
def test_variants_are_compared_on_the_same_rows_and_nothing_is_published(chain, days, downstream, names):
    context = comparing(chain, folder_of(days[0]), *names, downstream={name: DOWNSTREAM[name] for name in downstream})
    before, models = context.lake.published_versions(), context.tracker.model_versions(context.config.ranking_name)
    run_jobs(context, [compare_transfer.JOB], "compare")
    after = context.lake.published_versions()
    assert {name for name in after if after[name] != before.get(name)} <= {"runs"}
    assert context.tracker.model_versions(context.config.ranking_name) == models
    assert not list(Path(workspace(context.config.lake)).glob("transfer-*"))
    client = mlflow.MlflowClient(context.config.tracking.uri)
    runs = client.search_runs([client.get_experiment_by_name("alure_spark").experiment_id])
    parent = next(one for one in runs if one.data.tags["alure.job"] == "compare")  # the newest
    children = {one.data.tags["alure.job"]: one for one in runs if one.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert set(children) == {f"{task} {one}" for task in downstream for one in ("none", *names)}
    (text,) = [client.download_artifacts(parent.info.run_id, f"compare_transfer/{name}") for name in ["table.csv"]]
    table = pd.read_csv(text).set_index(["downstream", "task", "variant"])
    shown = [
        one for row in examples(context, FIRST + DAY_MS) for one in row.select(["split", "impression__position", "user_id"]).to_pylist()
    ]
    for name in downstream:
        mine = [
            (row["user_id"], split)
            for row in shown
            for split, position in zip(row["split"], row["impression__position"], strict=True)
            if name == "everything" or position < 2
        ]
        validated = [user for user, split in mine if split == "validation"]
        its = table.loc[name]
        assert sorted(its.index.unique("task")) == (["click"] if name == "first_places" else ["click", "conversion"])
        assert set(its["training_rows"]) == {len(mine) - len(validated)}
        assert set(its["validation_rows"]) == {len(validated)}
        assert set(its["validation_users"]) == {len(set(validated))}
        parameters = [its.loc["click"]["parameters"][one] for one in ("none", *names)]
        assert parameters[0] < parameters[1]
        assert parameters[1:] == sorted(parameters[1:]), "ur_ir_cr and the same with another layer are equally large"
        assert its.loc["click"]["ne"].nunique() == 1 + len(names)


def test_another_layer_is_compared_as_of_the_same_days_and_of_the_same_impressions(chain, days):
    """The published layer, extracted beside the lake, is the published table."""
    context = context_at(chain, folder_of(days[0]), 1)
    run, artifact = JobRun(context.lake, "test", "", "true"), champion(context.config, context.tracker)
    made = layer_representations(run, context.config, artifact, "hidden", lambda frame, name: frame.localCheckpoint())
    assert published_days(run, context.config, artifact) == [FIRST, FIRST + DAY_MS]
    published = context.lake.read("cross_representations").where(as_of_scope(FIRST) + " OR " + as_of_scope(FIRST + DAY_MS))
    assert published.exceptAll(made).isEmpty()
    assert made.exceptAll(published).isEmpty()
    other = layer_representations(run, context.config, artifact, "ad", lambda frame, name: frame.localCheckpoint())
    keys = ["kind", "user_id", "ad_hash", "as_of", "weight"]
    assert other.select(keys).exceptAll(published.select(keys)).isEmpty()
    assert other.count() == published.count()


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("surface = 'feed'", r"transfer.downstream.bad.where is .*cannot be read: \[UNRESOLVED_COLUMN"),
        pytest.param("account_id = 7", "transfer.downstream.bad: its condition holds for 0 impressions", marks=pytest.mark.slow),
        pytest.param(
            "1 / (time_ms - time_ms) > 0",
            "bad.where is .*, which fails on an impression: DIVIDE_BY_ZERO; use try_cast",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(chain, days, monkeypatch, where, sentence):
    def never(*_):
        raise AssertionError("trained")

    monkeypatch.setattr(ranking_challenger, "trained_afresh", never)
    downstream = {"good": DownstreamConfig(), "bad": DownstreamConfig(where)}
    with pytest.raises((ConfigError, DataError), match=sentence):
        run_jobs(comparing(chain, folder_of(days[0]), "ur", downstream=downstream), [compare_transfer.JOB], "compare")


def test_the_user_model_may_learn_from_others_than_the_downstream_tasks_alone(chain, days, monkeypatch):
    downstream = {"first_places": DOWNSTREAM["first_places"]}
    transfer = TransferConfig("hidden", HALF_LIFE, WINDOW, downstream=downstream, upstream="others")
    context = context_at(chain, folder_of(days[0]), 1, transfer=transfer)

    def caught(config, tracker, rows, *_):
        positions = [place for row in rows.select("impression__position").collect() for place in row["impression__position"]]
        raise ConfigError(f"{rows.count()} rows, positions {sorted(positions)}")

    monkeypatch.setattr(challenger, "train", caught)
    old = champion(context.config, context.tracker)
    compared = comparing(chain, folder_of(days[0]), "ur", downstream=downstream)
    compared.config = replace(compared.config, transfer=replace(compared.config.transfer, upstream="others"))
    with pytest.raises(ConfigError, match=f"user model {old.model_id} has learnt from all impressions: run train_model, embed_users"):
        run_jobs(compared, [compare_transfer.JOB], "compare")
    every = context.lake.read("training_examples").where(as_of_scope(FIRST + DAY_MS)).select("impression__position").collect()
    others = sorted(place for row in every for place in row["impression__position"] if place >= 2)
    assert 0 < len(others) < sum(len(row["impression__position"]) for row in every)
    with pytest.raises(ConfigError) as error:
        run_jobs(context, [train_model.JOB], "test")
    assert str(error.value) == str(ConfigError(f"{len(every)} rows, positions {others}"))


def test_what_cannot_be_extracted_is_one_sentence(chain, tmp_path):
    copied(chain, tmp_path)
    with pytest.raises(ConfigError, match=r"transfer\.layer is empty: say which layer"):
        run_jobs(context_at(chain, tmp_path, 0, transfer=TransferConfig()), [extract_representations.JOB], "test")
    with pytest.raises(ConfigError, match=r"ranking\.fields\.of_user reads user\.cross, but transfer\.layer is empty"):
        reading(chain, tmp_path, 0, transfer=TransferConfig())
    with pytest.raises(DataError, match="training_examples lacks the array 'shown_known_at_ms'.*run jobs/build_sequences.py again"):
        run_jobs(context_at(chain, tmp_path, 0), [extract_representations.JOB], "test")


def test_what_was_read_before_a_failure_is_not_read_again(days, tmp_path):
    """The sums of a batch of users, kept in the folder; without one user in them, as a mark by which they are known again."""
    daily, _ = days
    artifact, inference = champion(daily.config, daily.tracker), daily.config.inference
    table = daily.lake.read("training_examples").where(as_of_scope(FIRST + DAY_MS)).coalesce(1)

    def users():
        sums = cross_sums(table, artifact, inference, "hidden", [FIRST + DAY_MS, FIRST], str(tmp_path))
        return {row["user_id"] for row in sums.where("kind = 'user'").select("user_id").distinct().collect()}

    whole, kept = users(), sorted(tmp_path.glob("sums-*.parquet"))
    assert len(kept) > 1, "several batches"
    marked, lost = pq.read_table(kept[0]), pq.read_table(kept[1])
    user = marked["user_id"][0].as_py()
    pq.write_table(marked.filter(pc.not_equal(pc.fill_null(marked["user_id"], ""), user)), kept[0])
    kept[1].unlink()
    assert users() == whole - {user}
    assert pq.read_table(kept[1]).equals(lost), "what was not there was read again, and gives the same"


@pytest.mark.slow
def test_a_killed_extraction_starts_again_with_what_was_read(chain, days, tmp_path):
    copied(days[1], tmp_path)
    context = context_at(chain, tmp_path, 2)
    run_jobs(context, [build_sequences.JOB], "test")
    settings = {"time.as_of": f"'{context.config.time.as_of}'", "transfer.layer": "hidden", "transfer.half_life_days": HALF_LIFE}
    settings |= {"transfer.window_days": WINDOW, "labels.validation_days": 0.25}
    values = overrides(tmp_path, *(f"{name}={value}" for name, value in settings.items()))
    arguments = [part for value in values for part in ("--set", value)]
    command = [sys.executable, "-m", "jobs.extract_representations", "--conf", "conf/test.yml", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=own_spark(), start_new_session=True)
    units = "alure-*/representations-*/sums-*.parquet"
    while not list((tmp_path / "scratch").glob(units)):
        assert process.poll() is None, "the job ended before it could be killed"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    first = sorted((tmp_path / "scratch").glob(units))[0]
    sums = pq.read_table(first)
    pq.write_table(sums.slice(sums.num_rows), first)  # the mark: of these users nothing was summed
    of_users = sums.filter(pc.equal(sums["kind"], "user"))["user_id"].unique().to_pylist()
    run_jobs(context, [extract_representations.JOB], "test")
    added = context.lake.read("cross_sums").where(as_of_scope(FIRST + 2 * DAY_MS)).where("kind = 'user'").select("user_id").toPandas()
    assert of_users
    assert not set(of_users) & set(added["user_id"])
    assert len(added)
    assert not list((tmp_path / "scratch").glob("alure-*/representations-*")), "nothing is left behind"


@pytest.mark.slow
def test_a_forgotten_user_is_in_no_representation_after_the_next_run(chain, days, monkeypatch):
    monkeypatch.setenv(identity.KEY_VARIABLE, "a key of the test that is long enough for it")
    _, context = days
    as_of = FIRST + DAY_MS
    before = rows(context, "cross_representations", as_of)
    user = before[before["kind"] == "user"].sort_values("weight")["user_id"].iloc[-1]
    run_jobs(context, [forget_users.job([user])], "test")
    for name in ("cross_sums", "cross_representations"):
        assert context.lake.read(name).where(F.col("user_id") == user).isEmpty()
    run_jobs(context, [build_sequences.JOB, extract_representations.JOB], "test")
    truth, table = expected(context, as_of), rows(context, "cross_representations", as_of)
    assert ("user", user) not in truth
    ads = table[table["kind"] == "ad"]
    assert len(ads) == sum(kind == "ad" for kind, _ in truth)
    for row in ads.itertuples():
        assert row.weight == pytest.approx(truth["ad", row.ad_hash][0], rel=1e-6), "ads have lost what the user had seen"
