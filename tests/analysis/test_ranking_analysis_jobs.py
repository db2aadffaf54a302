"""jobs/analyse_embeddings.py, analyse_features.py and analyse_entanglement.py on the small world, after a ranking model was trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from alure_spark.config import load
from alure_spark.errors import ConfigError, TrackingError
from alure_spark.lake import workspace
from alure_spark.running import open_context, run_jobs
from jobs import analyse_embeddings, analyse_entanglement, analyse_features, build_sequences, ingest_events, train_ranking
from tests.conftest import ROOT, overrides

RANKING = """
ranking:
  fields:
    ad: {reads: impression.ad_id, encoding: id}
    category: {reads: ad.category_id, encoding: id}
    media_type: {reads: impression.media_type, encoding: id}
    clicks: {reads: history.ad_click.count, encoding: numeral_systems, options: {kind: integer}}
  sequences: {seen: {source: organic_impression, category: category_id, target: category}}
  tables: {wide: 12, narrow: 8}  # GwPFM splits the wide one among three origins
  serving: {media_type: image}
  epochs: 2
"""


def without_ranking() -> str:
    """conf/test.yml up to a section `ranking`, which it may have one day."""
    text = (ROOT / "conf" / "test.yml").read_text()
    return text.split("\nranking:")[0]


@pytest.mark.slow
def test_the_jobs_look_at_the_registered_model(spark, tmp_path):
    conf = tmp_path / "ranked.yml"
    conf.write_text(f"{without_ranking()}\n{RANKING}")
    places = overrides(tmp_path)
    context = open_context(load(conf, places))
    with pytest.raises(TrackingError, match=r"no champion of .*: run jobs/train_ranking.py first"):
        run_jobs(context, [analyse_embeddings.JOB], "too early")
    run_jobs(context, [ingest_events.JOB, build_sequences.JOB, train_ranking.JOB], "training")
    before = context.lake.published_versions()

    run_jobs(context, [analyse_embeddings.JOB], "embeddings")
    numbers = {"wide": 12, "narrow": 8}
    for table, most in numbers.items():
        for field in ("ad", "category", "media_type", "clicks"):
            assert 1 <= context.tracker.metrics[f"analyse_embeddings.{table}.{field}.information_abundance"] <= most
    run_jobs(context, [analyse_features.JOB], "features")
    for task in ("click", "conversion"):
        assert context.tracker.metrics[f"analyse_features.seen.{task}.cells"] > 50
    assert context.tracker.metrics["analyse_features.seen.click.cells_above_chance"] > 0, "users respond to what they like to look at"
    run_jobs(context, [analyse_entanglement.JOB], "entanglement")
    assert 0 <= context.tracker.metrics["analyse_entanglement.click_conversion.contradictory_pairs"] < 500, "in this world tasks agree"
    (text,) = (tmp_path / "artifacts").rglob("analyse_entanglement/pairs.txt")
    assert "pairs near in click, far in conversion" in text.read_text()

    written = {path.relative_to(tmp_path).as_posix().split("/artifacts/", 2)[-1] for path in (tmp_path / "artifacts").rglob("*.*")}
    assert {
        "analyse_embeddings/singular_values.png", "analyse_embeddings/information_abundance.png", "analyse_embeddings/table.txt",
        "analyse_features/seen_click_position.png", "analyse_features/seen_conversion_interval.png", "analyse_features/strongest.txt",
        "analyse_entanglement/pairs.txt",
    } <= written  # fmt: skip
    (text,) = (tmp_path / "artifacts").rglob("analyse_features/strongest.txt")
    assert "own category" in text.read_text()
    assert "hash " not in text.read_text(), "all categories of this world are named by events"
    (text,) = (tmp_path / "artifacts").rglob("analyse_embeddings/table.txt")
    assert "drawn with the seed 7\n" in text.read_text()
    after = context.lake.published_versions()
    assert {name: after[name] for name in before if name != "runs"} == {name: before[name] for name in before if name != "runs"}
    assert not list(Path(workspace(context.config.lake)).glob("features-*"))
    assert not list(Path(workspace(context.config.lake)).glob("entanglement-*"))

    fewer = load(conf, [*places, "ranking.fields={category: {reads: ad.category_id, encoding: id}}"])
    with pytest.raises(ConfigError, match="reads the field 'ad', which ranking.fields lacks"):
        run_jobs(open_context(fewer), [analyse_features.JOB], "another conf")
