from __future__ import annotations

import os
import re
import stat
import sys
import threading
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from pyspark.sql import functions as F

from alure_spark.batches.decode import country_hash
from alure_spark.batches.layout import Layout
from alure_spark.batches.vocabulary import Vocabulary
from alure_spark.config import FeaturePolicy, TrainingConfig
from alure_spark.errors import ConfigError, DataError
from alure_spark.model.spec import ModelSpec
from alure_spark.packed.in_memory import collected
from alure_spark.packed.loader import WINDOW, Loader
from alure_spark.packed.readers import open_reader
from alure_spark.packed.rows import exported
from alure_spark.packed.segments import segment_loaders
from tests import oracle

READERS = ("petastorm", "pyarrow")
AS_OF = 1_500_000_000_000
LAYOUT = Layout(
    {
        "view": {"category_id": "categorical", "value": "numeric", "text": "text", "unread": "text", "media": "embedding"},
        "click": {"account_id": "categorical", "text": "text"},
        "silent": {},
    },
    {"position": "numeric", "media_type": "categorical"},
    {"text": 2, "media": 3},
)
# The packed rows write 0 for a null id, so 0 must be a known id that nulls could be taken for.
KNOWN = {
    "item_id": {-7: 2, 5: 1, 0: 3}, "account_id": {5: 1, 0: 2}, "category_id": {11: 3, -(2**63): 1, 0: 4}, "media_type": {11: 1, 0: 5},
}  # fmt: skip
VOCABULARY = Vocabulary.from_arrays(
    *(np.array(column) for column in zip(*((s, h, r) for s, rows in KNOWN.items() for h, r in rows.items()), strict=True))
)
TYPES = {"integer": "bigint", "categorical": "bigint", "numeric": "double", "weight": "double", "flag": "int"} | {
    "text": "string",
    "embedding": "array<float>",
}
COLUMNS = {name: TYPES[kind] for name, kind in (LAYOUT.columns() | LAYOUT.impression_columns()).items()} | {"split": "string"}
SCHEMA = (
    "user_id string, country string, as_of timestamp, segment string, impression_id array<string>, view__unread array<string>, "
    + ", ".join(f"`{name}` array<{kind}>" for name, kind in COLUMNS.items())
)

ids = st.sampled_from([None, 0, 5, -7, 11, -(2**63), 2**63 - 1])
numbers = st.one_of(st.none(), st.sampled_from([float("nan"), float("inf"), -0.0, 0.1, 2.0**60]), st.floats(-1e6, 1e6))
values = {
    "integer": st.integers(-(2**40), 2**40), "categorical": ids, "numeric": numbers, "weight": st.floats(0, 4), "flag": st.integers(0, 1),
    "text": st.one_of(st.none(), st.sampled_from(["", "one", "Zwei, drei", "one two three"])),
    "embedding": st.one_of(st.none(), st.lists(st.sampled_from([0.5, -2.0, 0.0]), min_size=3, max_size=3)),
}  # fmt: skip


@st.composite
def arrays(draw, columns, times, max_size):
    """Parallel arrays as one user has them: the first column ascends."""
    n = draw(st.integers(0, max_size))
    found = {name: draw(st.lists(values[kind], min_size=n, max_size=n)) for name, kind in columns.items()}
    return found | {times: sorted(found[times])}


@st.composite
def row(draw):
    made = {}
    for source in ("view", "click"):
        mine = {name: kind for name, kind in LAYOUT.columns().items() if name.startswith(f"{source}__")}
        made |= draw(arrays(mine, f"{source}__known_at_ms", 6))
    made |= draw(arrays(LAYOUT.impression_columns(), "time_ms", 3))
    made["split"] = ["validation" if flag else "train" for flag in made["split"]]
    made |= {name: [] for name in COLUMNS if name.startswith("silent__")} | {"impression_id": ["i"] * len(made["split"])}
    made["view__unread"] = ["?"] * len(made["view__item_id"])
    return made | {"country": draw(st.sampled_from(["X", "Y", "", "Ü"])), "segment": "all"}


def users():
    """250 hypothesis-made users, the first with nothing at all; names that a fixed-width numpy string would not keep."""
    made = oracle.cases_of(row(), 250)
    return [case | {"user_id": f"u{number}" + ("", "\0", " ü")[number % 3]} for number, case in enumerate(made)]


@pytest.fixture(scope="module")
def examples(spark):
    rows = users()
    names = [part.split()[0].strip("`") for part in SCHEMA.split(", ")]
    rows = [tuple(case.get(name) for name in names) for case in rows]
    frame = spark.createDataFrame(rows, SCHEMA)
    # as_of differs between users by milliseconds; a null array is an empty one.
    frame = frame.withColumn("as_of", F.timestamp_millis(F.lit(AS_OF) + F.length("user_id")))
    return frame.withColumn("silent__item_id", F.when(F.col("country") == "X", F.col("silent__item_id"))).persist()


@pytest.fixture(scope="module")
def folder(examples, tmp_path_factory):
    with exported(examples, LAYOUT, str(tmp_path_factory.mktemp("rows")), 40, "all") as path:
        yield path


def loaded(kind, folder, batch_users=32, **more):
    return Loader(open_reader(kind, folder), LAYOUT, VOCABULARY, batch_users, seed=5, **more)


def as_rows(batches):
    """What a batch says of each user, as plain lists under the names of the table's columns."""

    def jagged(offsets, tensors):
        return [
            {name: tensor[start:end].tolist() for name, tensor in tensors.items()}
            for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        ]

    found = []
    for batch in batches:
        parts = [
            jagged(source.offsets, {
                f"{name}__known_at_ms": source.known_at_ms, f"{name}__event_time_ms": source.event_time_ms,
                **{f"{name}__{attribute}": tensor for part in (source.rows, source.numbers, source.words, source.vectors)
                    for attribute, tensor in part.items()},
            })
            for name, source in batch.sources.items()
        ]  # fmt: skip
        shown = batch.impressions
        if shown is not None:
            own = {name: getattr(shown, name) for name in ("time_ms", "weight", "label_age_ms", "validation")} | dict(shown.labels)
            own |= {f"impression__{name}": tensor for name, tensor in (*shown.rows.items(), *shown.numbers.items())}
            parts.append(jagged(shown.offsets, own))
        for at, user in enumerate(batch.user_ids):
            merged = {name: value for part in parts for name, value in part[at].items()}
            found.append({"user_id": user, "country": batch.country[at].item(), "as_of_ms": batch.as_of_ms[at].item()} | merged)
    return found


def expected(examples):
    """The same of the table's rows, with nothing but Python: the oracle."""
    found = []
    for given in examples.withColumn("as_of_ms", F.unix_millis("as_of")).collect():
        plain = {"user_id": given["user_id"], "country": country_hash(given["country"]), "as_of_ms": given["as_of_ms"]}
        spaces = {"ad_id": "item_id"}
        names = {"ad_id": "impression__item_id", "account_id": "impression__account_id", "split": "validation"}
        for name, kind in (LAYOUT.columns() | LAYOUT.impression_columns()).items():
            values = given[name] or []
            if kind == "categorical":
                space = spaces.get(name, name.split("__")[-1])
                values = [KNOWN[space].get(value, 0) for value in values]
            elif kind == "numeric":
                values = [float("nan") if value is None else np.float32(value).item() for value in values]
            elif kind == "text":
                hashes = [[zlib.crc32(word.encode()) + 1 for word in re.findall(r"\w+", (value or "").lower())] for value in values]
                values = [[*words, 0, 0][:2] for words in hashes]
            elif kind == "embedding":
                values = [[float("nan")] * 3 if value is None else value for value in values]
            elif kind == "weight":
                values = [np.float32(value).item() for value in values]
            elif name == "split":
                values = [value == "validation" for value in values]
            plain[names.get(name, name)] = values
        found.append(plain)
    return found


def same(one, other):
    """Equal to the bit, NaN equal to NaN, in any order of the users: repr tells -0.0 from 0.0."""
    for row in (*one, *other):  # labels are integers in the table, float32 in a batch
        row |= {name: [float(value) for value in row[name]] for name in ("click", "conversion") if name in row}
    assert sorted(repr(sorted(row.items())) for row in one) == sorted(repr(sorted(row.items())) for row in other)


def equal(one, other):
    assert one.user_ids == other.user_ids
    assert one.segment == other.segment

    def compare(a, b):
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        elif isinstance(a, dict):
            assert a.keys() == b.keys()
            for name in a:
                compare(a[name], b[name])
        elif hasattr(a, "__dataclass_fields__"):
            for name in a.__dataclass_fields__:
                compare(getattr(a, name), getattr(b, name))
        else:
            assert a == b

    compare(one, other)


def order(batches):
    return [user for batch in batches for user in batch.user_ids]


@pytest.mark.parametrize("kind", READERS)
def test_batches_hold_what_the_table_holds(kind, examples, folder):
    """Nulls, unknown ids, users without events or impressions, a source without any event: against plain Python."""
    loader = loaded(kind, folder)
    truth = expected(examples)
    assert any(not row["time_ms"] for row in truth)
    assert any(row["time_ms"] and not row["view__item_id"] for row in truth)
    same(as_rows(loader.in_order()), truth)
    same(as_rows(loader.batches(epoch=3)), truth)


@pytest.mark.parametrize("kind", READERS)
def test_without_impressions_the_histories_are_the_same(kind, examples, folder):
    histories = as_rows(loaded(kind, folder, with_impressions=False).in_order())
    truth = expected(examples)
    same(histories, [{name: row[name] for name in histories[0]} for row in truth])
    assert not [name for name in histories[0] if "impression" in name or name == "click"]


def test_rows_in_memory_are_one_batch_of_the_same_users_by_id(examples):
    """Whatever the partitions; with integers that no model reads."""
    layout = replace(LAYOUT, integers=("seen_ms",))
    rows = examples.withColumn("seen_ms", F.transform("time_ms", lambda t: t + 1))
    batch = collected(rows, layout, VOCABULARY)
    same(as_rows([batch]), expected(examples))
    assert list(batch.user_ids) == sorted(batch.user_ids, key=str.encode)
    assert torch.equal(batch.impressions.integers["seen_ms"], batch.impressions.time_ms + 1)
    equal(collected(rows.repartition(5, "country"), layout, VOCABULARY), batch)
    assert collected(rows.where("false"), layout, VOCABULARY) is None


def test_both_readers_give_identical_batches(folder):
    for make in (lambda loader: loader.batches(1), lambda loader: loader.batches(2, start=3), lambda loader: loader.in_order()):
        one, other = (list(make(loaded(kind, folder))) for kind in READERS)
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            equal(a, b)


@pytest.mark.parametrize("kind", READERS)
def test_every_user_comes_once_in_an_epoch_and_epochs_differ(kind, examples, folder):
    loader = loaded(kind, folder)
    assert loader.reader.row_groups > WINDOW, "more than one window"
    epochs = [order(loader.batches(epoch)) for epoch in (0, 1)]
    everybody = [given["user_id"] for given in examples.select("user_id").collect()]
    assert Counter(epochs[0]) == Counter(epochs[1]) == Counter(everybody)
    assert epochs[0] != epochs[1]
    assert order(loader.batches(0)) == epochs[0]
    sizes = [len(batch) for batch in loader.batches(0)]
    assert sizes == [32] * (len(everybody) // 32) + [len(everybody) % 32]
    assert (loader.steps, loader.users) == (len(sizes), len(everybody))
    other = Loader(loader.reader, LAYOUT, VOCABULARY, 32, seed=6)
    assert order(other.batches(0)) != epochs[0]


def test_users_are_mixed_across_the_row_groups_of_a_window_and_not_further(folder):
    loader = loaded("pyarrow", folder)
    groups = np.repeat(np.arange(loader.reader.row_groups), loader.reader.rows)
    group = dict(zip(order(loader.in_order()), groups.tolist(), strict=True))
    assert len({frozenset(group[user] for user in order(loader.batches(epoch))[:32]) for epoch in range(3)}) > 1, "windows differ too"
    mixed = order(loader.batches(0))
    assert len({group[user] for user in mixed[:32]}) == WINDOW
    assert len({group[user] for user in mixed[: min(loader.reader.rows) * WINDOW]}) == WINDOW


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("start", [0, 1, 4, 6, 7, 8, 9])
def test_starting_at_k_gives_the_tail_of_the_epoch(kind, start, folder):
    loader = loaded(kind, folder)
    whole, tail = list(loader.batches(2)), list(loader.batches(2, start=start))
    assert len(tail) == max(0, len(whole) - start)
    for a, b in zip(whole[start:], tail, strict=True):
        equal(a, b)


def test_windows_before_the_start_are_not_read(folder, monkeypatch):
    loader = loaded("pyarrow", folder)
    asked = []
    read = loader.reader.read
    monkeypatch.setattr(loader.reader, "read", lambda groups, columns: asked.append(len(groups)) or read(groups, columns))
    list(loader.batches(0, start=loader.steps - 1))
    assert asked[0] <= WINDOW < loader.reader.row_groups


@pytest.mark.parametrize("adaptive", ["false", "true"])
def test_the_order_does_not_depend_on_partitions_or_row_order(adaptive, spark, examples, folder, tmp_path):
    settings = {"spark.sql.shuffle.partitions": "5", "spark.sql.adaptive.enabled": adaptive}
    before = {name: spark.conf.get(name) for name in settings}
    try:
        for name, value in settings.items():
            spark.conf.set(name, value)
        other_way_round = examples.repartition(7, "country").sortWithinPartitions(F.desc("user_id"))
        with exported(other_way_round, LAYOUT, str(tmp_path), 40, "again") as again:
            one, other = (list(loaded("pyarrow", path).batches(0)) for path in (folder, again))
    finally:
        for name, value in before.items():
            spark.conf.set(name, value)
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        equal(a, b)


@pytest.mark.parametrize("kind", READERS)
def test_the_consumer_may_stop_early(kind, folder):
    batches = loaded(kind, folder, batch_users=5).batches(0)
    before = threading.active_count()
    assert len(next(batches)) == 5
    batches.close()
    assert threading.active_count() <= before, "no thread is left reading"


def test_the_folder_is_private_and_gone_afterwards(examples, tmp_path):
    few = examples.limit(20)
    with exported(few, LAYOUT, f"file:{tmp_path}/scratch", 8, "v3-abc") as path:
        assert path == f"{tmp_path}/scratch/v3-abc"
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
        assert sum(open_reader("pyarrow", path).rows) == 20
    assert not os.path.exists(path)
    with pytest.raises(ZeroDivisionError), exported(few, LAYOUT, str(tmp_path), 8, "fails") as path:
        assert list(Path(path).glob("*/*.parquet"))
        raise ZeroDivisionError
    assert not os.path.exists(path)


def test_the_folder_is_gone_when_the_export_itself_fails_and_the_sentence_names_the_user(examples, tmp_path):
    broken = examples.limit(20).withColumn("time_ms", F.array(F.lit(None).cast("bigint")))
    with pytest.raises(Exception, match="DataError: 'time_ms' of user 'u.*' holds a null"), exported(broken, LAYOUT, str(tmp_path), 8, "x"):
        pytest.fail("not reached")
    assert os.listdir(tmp_path) == []


def test_what_a_killed_training_left_is_replaced(examples, tmp_path):
    left = tmp_path / "rows" / "bucket=0"
    left.mkdir(parents=True)
    (left / "old.parquet").write_text("half")
    with exported(examples.limit(5), LAYOUT, str(tmp_path), 8, "rows") as path:
        assert open_reader("pyarrow", path).rows == [5]


def test_no_rows_are_an_error_that_says_what_to_run(examples, tmp_path):
    with pytest.raises(DataError, match="no rows.*run jobs/build_sequences.py"), exported(examples.limit(0), LAYOUT, str(tmp_path), 8, "x"):
        pytest.fail("not reached")
    for kind in READERS:
        for path in (tmp_path, tmp_path / "nowhere"):
            with pytest.raises(DataError, match="no packed rows in .*lake.scratch"):
                open_reader(kind, str(path))


def test_a_table_without_a_stream_of_the_conf_is_an_error(examples, tmp_path):
    with (
        pytest.raises(DataError, match="lacks the array 'view__value'; did you mean 'view__valeu'"),
        exported(examples.withColumnRenamed("view__value", "view__valeu"), LAYOUT, str(tmp_path), 8, "x"),
    ):
        pytest.fail("not reached")


def test_a_scratch_folder_that_only_spark_could_reach_is_refused(examples):
    with pytest.raises(ConfigError, match="lake.scratch is 's3://bucket/x'"), exported(examples, LAYOUT, "s3://bucket/x", 8, "x"):
        pytest.fail("not reached")


def test_rows_of_another_segment_are_refused(folder):
    with pytest.raises(DataError, match="are of the segments \\['all'\\], the batch of 'active'"):
        next(iter(loaded("pyarrow", folder, segment="active").in_order()))


def test_without_petastorm_the_error_names_the_extra_and_the_other_reader(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "petastorm", None)
    with pytest.raises(ConfigError, match="alure_spark\\[petastorm\\].*training.reader=pyarrow"):
        open_reader("petastorm", folder)
    assert open_reader("pyarrow", folder).row_groups
    with pytest.raises(ConfigError, match="did you mean 'pyarrow'"):
        open_reader("pyarow", folder)


@pytest.fixture(scope="module")
def told_apart(examples, tmp_path_factory):
    """A loader per segment."""
    rows = examples.withColumn("segment", F.when(F.pmod(F.hash("user_id"), F.lit(3)) == 0, "passive").otherwise("active"))
    training = TrainingConfig(reader="pyarrow", export_rows=40, batch_users=32, seed=5)
    with segment_loaders(rows, LAYOUT, VOCABULARY, training, str(tmp_path_factory.mktemp("segments")), "x") as packed:
        yield packed


def test_batches_are_of_one_segment_and_every_user_comes_once(examples, told_apart):
    everybody = Counter(row["user_id"] for row in examples.select("user_id").collect())
    for make in (lambda: told_apart.batches(0), lambda: told_apart.in_order()):
        assert Counter(order(make())) == everybody
    assert [loader.segment for loader in told_apart.loaders] == ["active", "passive"]
    turns = ["".join(batch.segment[0] for batch in told_apart.batches(epoch)) for epoch in range(4)]
    assert len(turns[0]) == told_apart.steps
    assert len(set(turns)) > 1, "segments come in another order"
    assert turns[0] == "".join(batch.segment[0] for batch in told_apart.batches(0))
    assert {batch.segment for batch in told_apart.only("passive").in_order()} == {"passive"}
    assert told_apart.users == sum(everybody.values())
    assert "".join(batch.segment[0] for batch in told_apart.in_order()).startswith(("apa", "aap")), "what is fitted on the first sees both"


@pytest.mark.parametrize("start", [0, 1, 3, 6, 9])
def test_segments_can_be_started_at_k_too(told_apart, start):
    whole, tail = list(told_apart.batches(2)), list(told_apart.batches(2, start=start))
    assert len(tail) == len(whole) - start
    for one, other in zip(whole[start:], tail, strict=True):
        equal(one, other)


def test_a_reader_is_asked_for_nothing_that_the_policy_of_its_segment_drops(told_apart):
    policy = FeaturePolicy(sources=("view",), drop_attributes={"view": ("value",)})
    spec = ModelSpec(
        LAYOUT.sources, ("view",), dict.fromkeys(("item_id", "account_id"), 30), LAYOUT.impression_attributes, widths=LAYOUT.widths,
        policies={"passive": policy},
    )  # fmt: skip
    active, passive = told_apart.decoding(spec, VOCABULARY).loaders
    dropped = set(active.columns) - set(passive.columns)
    assert dropped == {name for name in active.columns if name.startswith(("click__", "silent__"))} | {"view__value"}
    batch = next(passive.in_order())
    assert batch.sources["click"].withheld
    assert batch.sources["view"].lacks("value")
    assert not next(active.in_order()).sources["view"].lacks("value")
