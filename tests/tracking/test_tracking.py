from __future__ import annotations

import json
import os
import re
import tempfile

import mlflow
import pytest

from alure_spark.config import Config, LakeConfig, StreamConfig, TrackingConfig
from alure_spark.errors import ConfigError, DataError, TrackingError
from alure_spark.lake import Lake
from alure_spark.plots import histogram
from alure_spark.privacy import forgetting
from alure_spark.running import Context
from alure_spark.tracking import Columns, registry, store
from tests.tracking.stores import CONFIG, tracker

COLUMNS = Columns(("user_id",), ("view__item_id",), {"user_id": "string", "embedding": "float[]"})


def log_everything(to, numpy_values):
    with to.run("job", CONFIG) as run:
        run.log_inputs("/lake", {"events": 3})
        run.log_metrics({"a": 1.5, "b": None})
        run.log_figure(histogram(numpy_values, numpy_values, "x", "y"), "plots/h.png")
        return run.run_id


def test_a_run_names_its_inputs_code_conf_metrics_and_what_was_absent(tmp_path):
    import numpy as np

    run_id = log_everything(tracker(tmp_path), np.array([1, 2]))
    run = mlflow.get_run(run_id)
    assert run.data.metrics == {"a": 1.5}, "an absent metric is no number"
    assert run.data.tags["alure.absent_metrics"] == "b"
    assert run.data.tags["alure.config_hash"] == CONFIG.digest()
    assert run.data.tags["alure.git_commit"]
    source = json.loads(run.inputs.dataset_inputs[0].dataset.source)
    assert (source["path"], source["delta_table_version"]) == ("/lake/events", 3)
    assert run.info.status == "FINISHED"
    assert (tmp_path / "artifacts" / run_id / "artifacts" / "plots" / "h.png").stat().st_size > 1000


def test_a_failing_job_is_a_failed_run(tmp_path):
    to = tracker(tmp_path)
    with pytest.raises(ValueError, match="planted"), to.run("job", CONFIG) as run:
        run_id = run.run_id
        raise ValueError("planted")
    assert mlflow.get_run(run_id).info.status == "FAILED"


def test_when_the_store_fails_the_figures_go_to_files_and_the_job_goes_on(tmp_path, caplog):
    import numpy as np

    (tmp_path / "file").write_text("where a folder would be needed")
    run_id = log_everything(tracker(tmp_path, f"sqlite:///{tmp_path}/file/m.db"), np.array([1, 2]))
    folder = tmp_path / "untracked" / run_id
    logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert {"metrics": {"a": 1.5}} in logged
    assert {"inputs": {"events": 3}} in logged
    assert (folder / "plots" / "h.png").stat().st_size > 1000
    assert "MLflow could not start a run" in caplog.text


def test_a_model_is_found_by_alias_and_version_with_its_digest(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_bytes(b"1")
    to = tracker(tmp_path)
    assert to.find_model("m") is None
    with to.run("job", CONFIG):
        first = to.log_model("m", folder, "alure_spark.inference.pyfunc", "digest-1", {"alure.gate": "champion"}, COLUMNS)
        assert to.find_model("m") is None, "no version is champion until it is promoted"
        to.promote("m", first)
        second = to.log_model("m", folder, "alure_spark.inference.pyfunc", "digest-2", {}, COLUMNS)
    assert (first, second) == ("1", "2")
    assert to.find_model("m").digest == "digest-1"
    found = to.find_model("m", "2")
    assert (found.version, found.digest, (found.folder / "weights").read_bytes()) == ("2", "digest-2", b"1")
    with pytest.raises(TrackingError, match="does not give model m, 9"):
        to.find_model("m", "9")


def test_every_model_name_that_a_conf_takes_is_found_again_and_the_letter_of_another_is_named(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"1")
    to, taken = tracker(tmp_path), []
    for letter in ["?", "@", "#", "%", ";", "/", ":", "'", '"', "`", "\\", " ", "é"]:
        try:
            taken.append((letter, Config(streams={"purchase": StreamConfig()}, name=f"a{letter}b").model_name))
        except ConfigError:
            said = re.escape(f"which holds {letter!r}; allowed: up to 100 characters without")
            with pytest.raises(ConfigError, match=rf"^name is .*{said}"):
                Config(streams={"purchase": StreamConfig()}, name=f"a{letter}b")
            with pytest.raises(ConfigError, match=rf"^tracking\.model_name is .*{said}"):
                TrackingConfig(model_name=f"a{letter}b")
    assert [letter for letter, _ in taken] == ["#", "%", ";", " ", "é"]
    with to.run("job", CONFIG):
        for letter, name in taken:
            to.promote(name, to.log_model(name, tmp_path / "model", "alure_spark.inference.pyfunc", letter, {}, COLUMNS))
            assert (to.find_model(name).digest, list(to.model_versions(name))) == (letter, ["1"])
    for name in ("..a", ".", " . ", ""):
        with pytest.raises(ConfigError, match="name is"):
            Config(streams={"purchase": StreamConfig()}, name=name)


def changed(path, place=0.5):
    """One bit of the file's byte at this share of it is another."""
    content = bytearray(path.read_bytes())
    content[round(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def test_a_registered_model_of_which_any_byte_or_file_is_another_is_refused(tmp_path):
    folder = tmp_path / "model"
    (folder / "validated").mkdir(parents=True)
    names = [f"{part}{name}" for part in ("", "validated/") for name in ("user.safetensors", "readout.safetensors", "model.json")]
    for number, name in enumerate(names):
        (folder / name).write_bytes(bytes([number]) * 40)
    to = tracker(tmp_path)
    with to.run("job", CONFIG):
        to.log_model("m", folder, "alure_spark.inference.pyfunc", "digest", {}, COLUMNS)
    assert to.find_model("m", "1").digest == "digest"
    (stored,) = (path.parent.parent for path in (tmp_path / "artifacts").rglob("validated/model.json"))

    def refused():
        with pytest.raises(DataError, match="model m version 1 in .* was changed or damaged: its files are not those that were registered"):
            to.find_model("m", "1")

    for name in names:
        before = (stored / name).read_bytes()
        for place in (0, 0.3, 0.7, 1):
            changed(stored / name, place)
            refused()
            (stored / name).write_bytes(before)
        (stored / name).unlink()
        refused()
        (stored / name).write_bytes(before)
    (stored / names[0]).rename(stored / "other")
    refused()
    (stored / "other").rename(stored / names[0])
    (stored / "added").write_text("")
    refused()
    (stored / "added").unlink()
    assert to.find_model("m", "1").folder.name == "model"
    mlflow.MlflowClient(to.config.uri).delete_model_version_tag("m", "1", "alure.content_digest")
    changed(stored / names[0])
    assert to.find_model("m", "1").digest == "digest", "of an earlier release: what reads the files checks that digest"
    stored.rename(stored.parent.parent / "elsewhere")
    refused()


def test_a_store_that_takes_no_model_is_an_error_and_not_a_warning(tmp_path):
    to = tracker(tmp_path, uri="sqlite:////proc/no_such_folder/m.db")
    with to.run("job", CONFIG), pytest.raises(TrackingError, match="did not take the model"):
        to.log_model("m", tmp_path, "alure_spark.inference.pyfunc", "d", {}, COLUMNS)
    assert to.offline is not None, "what can be kept without the store is kept in files"


@pytest.fixture
def unity_catalog(monkeypatch):
    """The SQLite registry with what Unity Catalog refuses, by its own checks where MLflow has them."""
    from mlflow.entities.model_registry import ModelVersionSearch
    from mlflow.store._unity_catalog.registry import rest_store
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Store

    real = {name: getattr(Store, name) for name in ("create_registered_model", "create_model_version", "search_model_versions")}

    def create_registered_model(self, name, *args, **options):
        if len(name.split(".")) != 3:
            raise mlflow.exceptions.MlflowException("specify all three levels")
        return real["create_registered_model"](self, name, *args, **options)

    def create_model_version(self, name, source, run_id=None, tags=None, *args, **options):
        rest_store.UcModelRegistryStore._validate_model_signature(None, mlflow.artifacts.download_artifacts(source))
        for tag in tags or []:
            if re.search(r"[.,\-=/:]", tag.key) or len(tag.value) > 1000 or tag.value != tag.value.strip():
                raise mlflow.exceptions.MlflowException(f"Tag name {tag.key} contains one or more of the reserved characters")
        return real["create_model_version"](self, name, source, run_id, tags, *args, **options)

    def search_registered_models(self, filter_string=None, max_results=None, order_by=None, page_token=None):
        rest_store._require_arg_unspecified("filter_string", filter_string)
        raise AssertionError("lists every model of the metastore")

    def search_model_versions(self, filter_string=None, max_results=None, order_by=None, page_token=None):
        rest_store._require_arg_unspecified("order_by", order_by)
        if not re.fullmatch(r"name ?= ?'[^']+'", filter_string):
            raise mlflow.exceptions.MlflowException("Currently supports a single filter condition")
        found = real["search_model_versions"](self, filter_string, 1, order_by, page_token)
        bare = [ModelVersionSearch(one.name, one.version, 0, tags=[], aliases=[]) for one in found]
        return type(found)(bare, found.token)

    for own in (create_registered_model, create_model_version, search_registered_models, search_model_versions):
        monkeypatch.setattr(Store, own.__name__, own)
    monkeypatch.setattr(registry, "is_unity_catalog", lambda: True)


def test_models_are_registered_and_found_in_a_registry_that_takes_what_unity_catalog_takes(tmp_path, unity_catalog):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"1")
    to, name = tracker(tmp_path), "main.alure.user_model"
    tags = {"alure.gate": " champion " + "x" * 2000, "alure.as_of": "2025-06-01T00:00:00Z"}
    with to.run("job", CONFIG):
        assert to.find_model(name) is None
        for digest in ("one", "two"):
            to.promote(name, to.log_model(name, tmp_path / "model", "alure_spark.inference.pyfunc", digest, tags, COLUMNS))
        with pytest.raises(ConfigError, match=r"would be 'alure_user_model_x'; allowed in Unity Catalog: catalog.schema.model"):
            to.find_model("alure_user_model_x")
    found = to.find_model(name)
    assert (found.version, found.digest, to.find_model(name, "1").digest) == ("2", "two", "one")
    versions = to.model_versions(name)
    assert list(versions) == ["1", "2"]
    assert versions["1"]["alure.as_of"] == "2025-06-01T00:00:00Z"
    assert versions["1"]["alure.gate"].startswith("champion xxx")


def test_a_registered_model_has_a_signature_of_its_columns(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"1")
    to = tracker(tmp_path)
    with to.run("job", CONFIG):
        to.log_model("m", tmp_path / "model", "alure_spark.inference.pyfunc", "digest", {}, COLUMNS)
    signature = mlflow.models.get_model_info("models:/m/1").signature
    assert signature.inputs.input_names() == ["user_id", "view__item_id"]
    assert signature.inputs.required_input_names() == ["user_id"]
    assert [str(kind) for kind in signature.outputs.input_types()] == ["DataType.string", "Array(float)"]


def test_a_model_that_was_downloaded_is_erased_with_what_names_it(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"1")
    to = tracker(tmp_path)
    with to.run("job", CONFIG):
        to.log_model("m", tmp_path / "model", "alure_spark.inference.pyfunc", "digest", {}, COLUMNS)
    monkeypatch.setattr(registry, "_is_here", lambda uri: False)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    found = to.find_model("m", "1")
    assert (found.folder / "weights").read_bytes() == b"1"
    assert found.folder.is_relative_to(temporary)
    del found
    assert list(temporary.iterdir()) == []
    (stored,) = (tmp_path / "artifacts").rglob("weights")
    stored.write_bytes(b"2")
    with pytest.raises(DataError, match="was changed or damaged"):
        to.find_model("m", "1")
    assert list(temporary.iterdir()) == []


def test_files_are_given_the_time_of_files_also_within_a_quick_call(monkeypatch):
    key = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    monkeypatch.delenv(key, raising=False)
    with store.limited(store.QUICK):
        assert os.environ[key] == "5"
        with store.limited(store.FILES):
            assert os.environ[key] == "120"
        assert os.environ[key] == "5"
    assert key not in os.environ
    monkeypatch.setenv(key, "7")
    with store.limited(store.QUICK), store.limited(store.FILES):
        assert os.environ[key] == "7"
    assert os.environ[key] == "7"


def test_an_erasure_does_not_fail_on_a_model_name_that_unity_catalog_does_not_take(spark, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "is_unity_catalog", lambda: True)
    context = Context(CONFIG, spark, Lake(spark, LakeConfig(f"{tmp_path}/lake")), tracker(tmp_path))
    said = forgetting.models(context.tracker, context.config.model_name)
    assert re.match(r"warning: which model versions .* is unknown \(.*catalog\.schema\.model", said)
