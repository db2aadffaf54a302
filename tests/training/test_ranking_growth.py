"""A ranking model that goes on from an earlier one: with its rows and encodings, with what is new to it, and not as another model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alure_spark.batches.epochs import MemoryLoader
from alure_spark.clock import DAY_MS, HOUR_MS
from alure_spark.config import Config, ExpertConfig, RankingConfig, build
from alure_spark.errors import ConfigError, DataError
from alure_spark.ranking.artifact import RankingArtifact
from alure_spark.ranking.spec import FieldSpec
from alure_spark.training import ranking_growth, ranking_model
from alure_spark.training.ranking_growth import Earlier, NewImpressions
from tests.conftest import ROOT
from tests.ranking.planted_ranking import ADS, DRAFT, VOCABULARY, users, with_labels

CONFIG = RankingConfig(epochs=6, patience=6, learning_rate=3e-3, batch_users=64)
BORDER = 200 * HOUR_MS  # what the earlier model has learnt from lies before
GROWN = VOCABULARY.grown({"ad": np.array([900, 901, 902])})


def conf(**labels):
    return build(Config, {"streams": {"click": {}}, "labels": labels})


def loader(batch):
    return MemoryLoader(batch, 64, seed=5)


def only(batch, kept):
    return replace(batch, impressions=batch.impressions.select(kept))


def first(batch, draft=DRAFT):
    """A model that was trained on what was shown before BORDER, as it comes from the registry."""
    shown = batch.impressions
    known = loader(only(batch, shown.validation | (shown.time_ms < BORDER)))
    spec = ranking_model.fitted_spec(draft, known, VOCABULARY)
    trained = ranking_model.train(ranking_model.new_network(spec, known, CONFIG.seed), known, CONFIG)
    artifact = RankingArtifact.of(trained.network, VOCABULARY, {"as_of_ms": 500 * HOUR_MS, "learnt_until_ms": BORDER})
    return Earlier.of(artifact, conf(), "")


def second(earlier, batch, draft=DRAFT, config=CONFIG, **more):
    spec = ranking_growth.grown_spec(earlier.artifact.spec, draft, GROWN)
    network = ranking_growth.continued(earlier, spec, loader(batch), config.seed)
    return ranking_model.train(network, NewImpressions(loader(batch), earlier.learnt_until_ms), config, **more)


@pytest.fixture(scope="module")
def earlier():
    return first(users(400))


def same_weights(one, other):
    weights = other.state_dict()
    for name, value in one.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=0)


def test_before_its_first_step_it_predicts_what_the_earlier_one_did_by_encodings_that_are_not_fitted_again(earlier):
    """Of other users, whose prices go further."""
    others = users(100, seed=3)
    shown = others.impressions
    others = replace(others, impressions=replace(shown, numbers={"price": 3 * shown.numbers["price"]}))
    spec = ranking_growth.grown_spec(earlier.artifact.spec, DRAFT, GROWN)
    network = ranking_growth.continued(earlier, spec, loader(others), seed=9).eval()
    torch.testing.assert_close(network(others), earlier.network(others), rtol=0, atol=0)
    assert spec.fields["ad"].settings == {"size": 1 + ADS + 3}
    for name in ("price", "clicks"):
        assert spec.fields[name] == earlier.artifact.spec.fields[name]
        assert ranking_model.fitted_spec(DRAFT, loader(others), GROWN).fields["price"] != spec.fields["price"]


def test_it_learns_from_what_is_new_and_looks_at_no_old_label(earlier):
    batch = users(400)
    shown = batch.impressions
    old = ~shown.validation & (shown.time_ms < BORDER)
    assert 50 < int(old.sum()) < int((~shown.validation).sum()) - 50
    label = shown.labels["click"]
    turned = [with_labels(batch, torch.where(which, 1 - label, label)) for which in (old, ~old & ~shown.validation)]
    as_it_is, of_old, of_new = (second(earlier, given) for given in (batch, *turned))
    same_weights(of_old.network, as_it_is.network)
    assert of_new.curves[0]["train.click"] != as_it_is.curves[0]["train.click"]
    assert as_it_is.validation.labels.shape == (int(shown.validation.sum()), 1), "all that validates does so"


def test_the_second_model_is_not_worse_than_the_first_and_knows_the_ads_that_came_since(earlier):
    """What is new has ads of its own, of which one is always clicked and one never."""
    batch = users(400)
    shown = batch.impressions
    random = torch.Generator().manual_seed(1)
    late = (shown.time_ms >= BORDER) & (torch.rand(len(shown.time_ms), generator=random) < 0.4)
    ad = torch.where(late, ADS + 1 + torch.randint(0, 2, late.shape, generator=random), shown.rows["ad"])
    label = torch.where(late, (ad == ADS + 1).float(), shown.labels["click"])
    batch = with_labels(replace(batch, impressions=replace(shown, rows=shown.rows | {"ad": ad})), label)
    result = second(earlier, batch)
    known = replace(batch, impressions=replace(batch.impressions, rows=shown.rows | {"ad": torch.where(late, 0, ad)}))
    before = ranking_model.evaluate(earlier.network, loader(known))
    assert result.validation.losses["click"] < before.losses["click"] - 0.05
    of_old = only(batch, ~late)
    after = ranking_model.evaluate(result.network, loader(of_old)).losses["click"]
    assert after < ranking_model.evaluate(earlier.network, loader(of_old)).losses["click"] + 0.02, "nor on the ads of before"


@pytest.mark.parametrize("at", [1, 4, 9])
def test_a_training_that_goes_on_and_is_killed_ends_in_the_weights_of_an_undisturbed_one(earlier, tmp_path, at):
    batch, config = users(150), replace(CONFIG, epochs=3)
    undisturbed = second(earlier, batch, config=config)

    class Killed(Exception):
        pass

    def kill(epoch, step, losses):
        if 3 * epoch + step == at:
            raise Killed

    file = tmp_path / "it.checkpoint"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        plan = ranking_model.plan_of
        patch.setattr(ranking_model, "plan_of", lambda *given: replace(plan(*given), checkpoint_steps=1))
        second(earlier, batch, config=config, checkpoint=file, observe=kill)
    assert file.is_file() == (at > 1)
    same_weights(second(earlier, batch, config=config, checkpoint=file).network, undisturbed.network)


def test_without_a_new_impression_it_says_so(earlier):
    batch = users(50)
    shown = batch.impressions
    with pytest.raises(DataError, match=r"with ranking.warm_start: one that is new to the model"):
        second(earlier, only(batch, shown.validation | (shown.time_ms < BORDER)))


def test_the_auxiliary_towers_that_no_registered_model_has_start_at_their_base_rates():
    batch = users(200)
    shown = batch.impressions
    rare = ((torch.arange(len(shown.time_ms)) % 10) == 0).float()
    batch = replace(batch, impressions=replace(shown, labels=shown.labels | {"like": rare}))
    draft = replace(DRAFT, tasks=("click", "like"), scheme="stem_al", main_task="click")
    earlier = first(batch, draft)
    assert earlier.network.spec.tasks == ("click",)
    spec = ranking_growth.grown_spec(earlier.artifact.spec, draft, GROWN)
    network = ranking_growth.continued(earlier, spec, loader(batch), seed=9).eval()
    said = torch.sigmoid(network(batch)).mean(dim=0)
    assert said[1].item() == pytest.approx(rare[~shown.validation].mean().item(), rel=0.15)
    torch.testing.assert_close(network(batch)[:, :1], earlier.network(batch), rtol=0, atol=0)
    assert second(earlier, batch, draft).validation.tasks == ("click", "like")


def test_the_golden_model_goes_on():
    artifact = RankingArtifact.read(ROOT / "tests" / "golden" / "ranking_model_1")
    config = conf(validation_days=0.000001)
    earlier = Earlier.of(artifact, config, "")
    assert earlier.learnt_until_ms == artifact.as_of_ms - config.labels.validation_ms, "it does not say, so the conf does"
    draft = replace(DRAFT, tables={"one": 4, "two": 2}, hidden=4, tower=(4,))
    vocabulary = earlier.vocabulary.grown({"ad": np.array([900])})
    spec = ranking_growth.grown_spec(artifact.spec, draft, vocabulary)
    batch = users(60)
    network = ranking_growth.continued(earlier, spec, loader(batch), seed=9)
    torch.testing.assert_close(network.eval()(batch), earlier.network(batch), rtol=0, atol=0)
    assert ranking_model.train(network, loader(batch), replace(CONFIG, epochs=1)).steps == 1


def field(name, **changes):
    return {"fields": {**DRAFT.fields, name: replace(DRAFT.fields[name], **changes)}}


def turned(mapping):
    return dict(reversed(mapping.items()))


REFUSED = [
    ({"hidden": 8}, "ranking.hidden is 8, but 16"),
    ({"tower": (8, 8)}, r"ranking.tower is \[8, 8\], but \[8\]"),
    ({"linear": True}, "ranking.linear is True, but False"),
    ({"tasks": ("click", "like")}, r"ranking.tasks is \['click', 'like'\], but \['click'\]"),
    ({"scheme": "stem"}, "ranking.scheme is 'stem', but 'ame'"),
    ({"tables": {"one": 4, "two": 4}}, "ranking.tables.one is 4, but 8"),
    ({"experts": {**DRAFT.experts, "dcn": ExpertConfig("ipnn", "two")}}, "ranking.experts.dcn.kind is 'ipnn', but 'dcn_v2'"),
    ({"experts": {**DRAFT.experts, "flat": ExpertConfig("flat_dnn", "two")}}, "ranking.experts has 'flat', which is not"),
    ({"sequences": {"clicked": replace(DRAFT.sequences["clicked"], events=9)}}, "ranking.sequences.clicked.events is 9, but 10"),
    ({"sequences": {}}, "ranking.sequences lacks 'clicked', which is"),
    ({"fields": {**DRAFT.fields, "more": FieldSpec("id")}}, "ranking.fields has 'more', which is not"),
    ({"fields": turned(DRAFT.fields)}, "ranking.fields has the order clicks, price, category, ad, but ad, category, price, clicks"),
    (field("price", encoding="standardized", settings={}), "ranking.fields.price.encoding is 'standardized', but 'numeral_systems'"),
    (field("price", settings={"steps": 8}), "ranking.fields.price.options.steps is 8, but 16"),
    (field("price", settings={"steps": 16, "bases": [2]}), r"ranking.fields.price.options.bases is \[2\], but \[2, 3, 10\]"),
    (field("price", settings={"steps": 16, "kind": "uniform"}), "ranking.fields.price.options.kind is 'uniform', but 'quantile'"),
    (field("clicks", history="click.days_since"), "ranking.fields.clicks.reads is 'click.days_since', but 'click.count'"),
    (field("ad", group="user"), "ranking.fields.ad.group is 'user', but 'ad'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "says"), REFUSED)
def test_a_conf_of_another_model_is_one_sentence_that_names_the_setting(earlier, change, says):
    with pytest.raises(ConfigError, match=f"^{says} in the model that ranking.warm_start goes on from: undo that, or set"):
        ranking_growth.grown_spec(earlier.artifact.spec, replace(DRAFT, **change), GROWN)


def test_what_changes_no_meaning_may_change(earlier):
    """Nor is a number of few values another one because it has fewer steps than the conf allows."""
    changed = replace(DRAFT, dropout=0.5, deviation=0.2, **field("price", settings={"steps": 300}))
    spec = ranking_growth.grown_spec(earlier.artifact.spec, changed, GROWN)
    assert (spec.dropout, spec.deviation) == (0.5, 0.2)
    assert spec.fields["price"].settings["steps"] == 16


@pytest.mark.parametrize(
    ("one", "settings", "other"),
    [
        (FieldSpec("hash_id", {"numbers": 3, "bits": 8}), {"numbers": 3, "bits": 9}, "options.bits is 9, but 8"),
        (FieldSpec("numbers", {"numbers": 3, "center": (1.0, 2.0, 3.0), "spread": 2.0}), {"numbers": 4}, "options.numbers is 4, but 3"),
        (FieldSpec("standardized", {"center": 1.0, "spread": 2.0, "log": True}), {"log": False}, "options.log is False, but True"),
        (FieldSpec("words", {"words": 3, "buckets": 9}), {"words": 3, "buckets": 8}, "options.buckets is 8, but 9"),
    ],
)
def test_every_encoding_keeps_what_it_was_fitted_to_and_refuses_other_options(one, settings, other):
    before = replace(DRAFT, fields={"ad": DRAFT.fields["ad"], "it": one}, sequences={})
    asked = {name: value for name, value in one.settings.items() if name not in ("center", "spread")}
    draft = replace(before, fields={"ad": DRAFT.fields["ad"], "it": replace(one, settings=asked)})
    assert ranking_growth.grown_spec(before, draft, GROWN).fields["it"] == one
    with pytest.raises(ConfigError, match=f"^ranking.fields.it.{other} in the model"):
        changed = replace(draft, fields={"ad": DRAFT.fields["ad"], "it": replace(one, settings=settings)})
        ranking_growth.grown_spec(before, changed, GROWN)


def test_user_embeddings_of_another_model_are_refused(earlier):
    artifact = replace(earlier.artifact, facts=earlier.artifact.facts | {"embedding_model_id": "alure-1"})
    assert Earlier.of(artifact, conf(), "alure-1").learnt_until_ms == BORDER
    with pytest.raises(ConfigError, match="has learnt from user embeddings of alure-1, but the newest are of alure-2"):
        Earlier.of(artifact, conf(), "alure-2")


def test_what_is_new_begins_where_the_last_training_split_ended_and_waits_for_its_labels():
    plain = conf(validation_days=2)
    assert ranking_growth.learnt_until(plain, 30 * DAY_MS) == 28 * DAY_MS
    waits = {"hold_back_immature": True, "click_window_hours": 24, "conversion_window_hours": 72}
    assert ranking_growth.learnt_until(conf(validation_days=2, **waits), 30 * DAY_MS) == 27 * DAY_MS
