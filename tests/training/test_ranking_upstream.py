"""Training with the interactions of another ranking model: what learns when, what may be used, and one sentence for what may not."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from alure_spark.batches.epochs import MemoryLoader
from alure_spark.clock import DAY_MS, format_time
from alure_spark.config import Config, ExpertConfig, RankingConfig, as_dict, build
from alure_spark.errors import ConfigError
from alure_spark.ranking.artifact import RankingArtifact
from alure_spark.training import ranking_growth, ranking_model, ranking_upstream
from alure_spark.training.ranking_upstream import Upstream
from tests.conftest import ROOT
from tests.ranking.planted_ranking import ADS, DRAFT, VOCABULARY, users, with_labels

AS_OF = 100 * DAY_MS
GROWN = VOCABULARY.grown({"ad": np.array([900, 901, 902])})
OWN = replace(DRAFT, tables={"small": 4}, experts={"fm": ExpertConfig("fm", "small")})
FIELDS = {
    "ad": {"reads": "impression.ad_id", "encoding": "id"},
    "category": {"reads": "ad.category_id", "encoding": "id"},
    "price": {"reads": "ad.bid", "encoding": "numeral_systems"},
    "clicks": {"reads": "history.click.count", "encoding": "numeral_systems"},
}


def conf(as_of=AS_OF, validation_days=2, upstream=(("train", "frozen"),), **ranking):
    plain = {"fields": FIELDS, "epochs": 2, "patience": 9, "learning_rate": 3e-3, "batch_users": 64, "hidden": 16}
    ranking = plain | {"upstream": {"model": "other_ranking"} | dict(upstream)} | ranking
    return build(
        Config,
        {
            "streams": {"click": {"attributes": {"category": "categorical"}}, "ad_impression": {}},
            "time": {"as_of": format_time(as_of)},
            "labels": {"validation_days": validation_days},
            "ranking": ranking,
        },
    )


def loader(batch):
    return MemoryLoader(batch, 64, seed=5)


@pytest.fixture(scope="module")
def other():
    """A model trained on other users, as the registry gives it."""
    batch = users(200, seed=4)
    spec = ranking_model.fitted_spec(DRAFT, loader(batch), VOCABULARY)
    config = RankingConfig(epochs=2, learning_rate=3e-3)
    trained = ranking_model.train(ranking_model.new_network(spec, loader(batch), 3), loader(batch), config)
    facts = {"as_of_ms": AS_OF} | ranking_growth.facts_of(conf(upstream=(), epochs=1), "alure-1")
    return RankingArtifact.of(trained.network, VOCABULARY, facts)


def begun(other, batch, config, draft=OWN):
    upstream = Upstream.of(other, config, "alure-1")
    draft = replace(draft, upstream=upstream.spec)
    upstream.require_fits(draft, config.ranking)
    network = ranking_model.new_network(ranking_model.fitted_spec(draft, loader(batch), GROWN), loader(batch), 7)
    upstream.copy_into(network, GROWN)
    return upstream, network


def test_before_training_its_experts_say_what_the_other_model_says_by_encodings_that_are_not_fitted_again(other):
    """Of users whose prices go further."""
    batch = users(100, seed=3)
    batch = replace(batch, impressions=replace(batch.impressions, numbers={"price": 3 * batch.impressions.numbers["price"]}))
    upstream, network = begun(other, batch, conf())
    ours, theirs = network.eval().upstream.meet(batch).branches, upstream.network.meet(batch).branches
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
    assert network.spec.fields["price"] != network.spec.upstream.model.fields["price"] == other.spec.fields["price"]
    assert network.spec.upstream.model.fields["ad"].settings == {"size": 1 + ADS + 3}


def of_epochs(other, train, tables="copied", epochs=3):
    """(weights that are copied as they are after each step of a training with every epoch, the steps of an epoch)."""
    batch = users(150)
    config = conf(upstream=(("train", train), ("tables", tables)), epochs=epochs)
    _, network = begun(other, batch, config)
    copies = [[one.detach().clone() for one in network.copied()]]

    def observe(epoch, step, losses):
        copies.append([one.detach().clone() for one in network.copied()])

    result = ranking_model.train(network, loader(batch), config.ranking, observe=observe)
    return result, copies, [int(row["steps"]) for row in result.curves]


def differs(one, other):
    return any(not torch.equal(left, right) for left, right in zip(one, other, strict=True))


def test_frozen_is_as_it_was_to_the_bit_after_a_whole_training(other):
    result, copies, _ = of_epochs(other, "frozen")
    assert len(copies[0]) > 6
    assert not differs(copies[0], copies[-1])
    assert not differs(copies[0], list(result.network.copied()))
    assert result.validation.losses["click"] < np.log(2)


def test_fine_tuned_learns_in_every_epoch(other):
    _, copies, steps = of_epochs(other, "fine_tuned")
    ends = np.cumsum([0, *steps])
    assert all(differs(copies[begin], copies[end]) for begin, end in pairwise(ends))


def test_alternating_is_frozen_in_the_first_epoch_learns_in_the_second_and_so_on(other):
    _, copies, steps = of_epochs(other, "alternating")
    ends = np.cumsum([0, *steps])
    moved = [differs(copies[begin], copies[end]) for begin, end in pairwise(ends)]
    assert moved == [False, True, False]


@pytest.mark.parametrize("at", [2, 5])
def test_an_alternating_training_that_is_killed_ends_in_the_weights_of_an_undisturbed_one(other, tmp_path, at):
    batch, config = users(150), conf(upstream=(("train", "alternating"),), epochs=3)

    class Killed(Exception):
        pass

    def kill(epoch, step, losses):
        if 3 * epoch + step == at:
            raise Killed

    def whole(**more):
        return ranking_model.train(begun(other, batch, config)[1], loader(batch), config.ranking, **more).network.state_dict()

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        plan = ranking_model.plan_of
        patch.setattr(ranking_model, "plan_of", lambda *given: replace(plan(*given), checkpoint_steps=1))
        whole(checkpoint=tmp_path / "it", observe=kill)
    again, undisturbed = whole(checkpoint=tmp_path / "it"), whole()
    assert all(torch.equal(again[name], value) for name, value in undisturbed.items())


def test_labels_of_what_validates_change_no_weight_of_it(other):
    batch = users(100)
    shown = batch.impressions
    flipped = with_labels(batch, torch.where(shown.validation, 1 - shown.labels["click"], shown.labels["click"]))
    config = conf(upstream=(("train", "fine_tuned"),), epochs=1)
    one, two = (ranking_model.train(begun(other, given, config)[1], loader(given), config.ranking).network for given in (batch, flipped))
    assert not differs(list(one.copied()), list(two.copied()))


def with_facts(other, **facts):
    return replace(other, facts=other.facts | facts)


def test_a_model_that_has_learnt_from_what_validates_today_is_refused(other):
    assert other.facts["learnt_until_ms"] == AS_OF - 2 * DAY_MS
    assert Upstream.of(other, conf(), "alure-1").told() == {"upstream": other.model_id}
    with pytest.raises(ConfigError, match=r"has learnt from impressions up to 1970-04-09.*, but those from 1970-04-08.* on validate"):
        Upstream.of(other, conf(validation_days=3), "alure-1")
    with pytest.raises(ConfigError, match=r"name an older version by ranking.upstream.version"):
        Upstream.of(with_facts(other, began_as="ranking-0"), conf(), "alure-1")
    unsaid = replace(other, facts={name: value for name, value in other.facts.items() if name != "learnt_until_ms"})
    with pytest.raises(ConfigError, match="has learnt from impressions up to 1970-04-11"):
        Upstream.of(unsaid, conf(), "alure-1")
    assert Upstream.of(with_facts(unsaid, as_of_ms=AS_OF - 2 * DAY_MS), conf(), "alure-1")


def test_a_model_of_a_later_day_is_refused_even_where_its_last_days_only_validated(other):
    later = with_facts(other, as_of_ms=AS_OF + 1)
    with pytest.raises(ConfigError, match="was trained on what became known after time.as_of=1970-04-11.*: it would leak the future"):
        Upstream.of(later, conf(), "alure-1")


def test_user_embeddings_of_another_model_are_refused(other):
    with pytest.raises(ConfigError, match="has learnt from user embeddings of alure-1, but the newest are of alure-2"):
        Upstream.of(other, conf(), "alure-2")


def without(mapping, name):
    return {key: value for key, value in mapping.items() if key != name}


def field(name, **changes):
    return {"fields": {**OWN.fields, name: replace(OWN.fields[name], **changes)}}


CLICKED = OWN.sequences["clicked"]
REFUSED = [
    ({"fields": without(OWN.fields, "price")}, {}, "ranking.fields lacks 'price', which is read by ranking-"),
    ({"sequences": {}}, {}, "ranking.sequences lacks 'clicked', which is read by ranking-"),
    ({"hidden": 8}, {}, "ranking.hidden is 8, but 16 in ranking-"),
    ({}, {"hash_buckets": 5}, "ranking.hash_buckets is 5, but 0 in ranking-"),
    (field("price", encoding="standardized", settings={}), {}, "ranking.fields.price.encoding is 'standardized', but 'numeral_systems'"),
    (field("clicks", days=7.0), {}, "ranking.fields.clicks.days is 7.0, but 0.0"),
    (field("clicks", history="click.days_since"), {}, "ranking.fields.clicks.reads is 'click.days_since', but 'click.count'"),
    (field("ad", space="creative"), {}, "ranking.fields.ad.space is 'creative', but 'ad'"),
    ({"sequences": {"clicked": replace(CLICKED, source="view")}}, {}, "ranking.sequences.clicked.source is 'view', but 'click'"),
    (
        {},
        {"fields": FIELDS | {"price": {"reads": "ad.value", "encoding": "numeral_systems"}}},
        "ranking.fields.price.reads is 'ad.value', but 'ad.bid'",
    ),
]


@pytest.mark.parametrize(("change", "setting", "says"), REFUSED)
def test_what_the_other_model_reads_and_this_one_does_not_is_one_sentence_that_names_the_setting(other, change, setting, says):
    config = conf(**setting)
    upstream = Upstream.of(other, config, "alure-1")
    with pytest.raises(ConfigError, match=f"^{says}.*which ranking.upstream.model names: change that, or name another model"):
        upstream.require_fits(replace(OWN, upstream=upstream.spec, **change), config.ranking)


def test_what_only_its_own_experts_read_otherwise_may_differ(other):
    """Fields of its own, groups, tables, towers, tasks and how numbers are cut into steps."""
    more = {**OWN.fields, "more": replace(OWN.fields["ad"]), "price": replace(OWN.fields["price"], settings={"steps": 5}, group="of price")}
    config = conf()
    upstream = Upstream.of(other, config, "alure-1")
    upstream.require_fits(replace(OWN, upstream=upstream.spec, fields=more, tower=(3,), tasks=("like",)), config.ranking)


def test_an_upstream_of_an_upstream_is_refused(other):
    batch, config = users(60), conf()
    _, network = begun(other, batch, config)
    second = Upstream.of(RankingArtifact.of(network, GROWN, other.facts), config, "alure-1")
    with pytest.raises(ConfigError, match="has an upstream model itself, which is not supported"):
        second.require_fits(OWN, config.ranking)


def test_the_golden_model_can_be_an_upstream():
    """It was saved before models said what their fields read, or until when they learnt."""
    golden = RankingArtifact.read(ROOT / "tests" / "golden" / "ranking_model_1")
    config = conf(as_of=max(golden.as_of_ms, 0) + 30 * DAY_MS, hidden=4)
    batch = users(60)
    upstream, network = begun(golden, batch, config, replace(OWN, hidden=4))
    assert torch.equal(
        torch.cat(list(network.eval().upstream.meet(batch).branches.values())),
        torch.cat(list(upstream.network.meet(batch).branches.values())),
    )


def test_a_conf_without_it_has_the_digest_that_it_had_and_what_cannot_be_is_refused():
    plain = conf(upstream=(), epochs=1)
    bare = build(Config, without(as_dict(plain), "ranking") | {"ranking": without(as_dict(plain)["ranking"], "upstream")})
    assert "upstream" not in as_dict(bare.ranking, "2026-11-29")
    assert plain.digest() != bare.digest()
    with pytest.raises(ConfigError, match=r"ranking.upstream.train is 'fine_tuned'; allowed: frozen without ranking.upstream.model"):
        build(Config, as_dict(bare) | {"ranking": as_dict(bare.ranking) | {"upstream": {"train": "fine_tuned"}}})
    with pytest.raises(ConfigError, match=r"ranking.warm_start is True; allowed: false beside ranking.upstream.model"):
        conf(warm_start=True)
    with pytest.raises(ConfigError, match=r"ranking.epochs is 1; allowed: at least 2 where ranking.upstream.train is alternating"):
        conf(upstream=(("train", "alternating"),), epochs=1)
    with pytest.raises(ConfigError, match=r"ranking.upstream.model is .*, which is this conf's own"):
        conf(upstream=(("model", bare.ranking_name),))
    assert ranking_upstream.start_of(None, conf(), "") is None
