"""Section `ranking`: what can be read, and one sentence for what cannot."""

from __future__ import annotations

import pytest

from alure_spark.config import Config, as_dict, build
from alure_spark.errors import ConfigError

STREAMS = {
    "ad_impression": {"attributes": {"slot": "categorical", "position": "numeric"}},
    "ad_click": {"attributes": {"account_id": "categorical", "value": "numeric"}},
}
LABELS = {"impression_attributes": ["slot", "position"]}
AD = {"reads": "impression.ad_id", "encoding": "id"}


def conf(fields=None, **more):
    return build(Config, {"streams": STREAMS, "labels": LABELS, "ranking": {"fields": fields or {}} | more})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"features": 63}, "ranking.exploration.features is 63; allowed: an even number"),
        ({"features": 64, "policy": "ucb"}, "ranking.exploration.policy is 'ucb'; allowed: greedy, thompson"),
        ({"policy": "thompson"}, "ranking.exploration.policy is 'thompson'; allowed: greedy where ranking.exploration.features is 0"),
        ({"features": 64, "length_scales": []}, "ranking.exploration.length_scales is .*; allowed: at least one"),
        ({"features": 64, "length_scales": [0]}, r"ranking.exploration.length_scales\[0\] is 0.0; allowed: a number above 0"),
        ({"features": 64, "prior_variance": 0}, "ranking.exploration.prior_variance is 0.0; allowed: a number above 0"),
    ],
)
def test_exploration_that_cannot_be_is_one_sentence(given, message):
    with pytest.raises(ConfigError, match=message):
        conf({"ad": AD}, exploration=given)


def test_a_conf_without_exploration_has_the_digest_that_it_had():
    assert conf({"ad": AD}, exploration={}).digest() == conf({"ad": AD}).digest()
    assert "exploration" not in as_dict(conf({"ad": AD}), "2026-11-29")["ranking"]
    assert conf({"ad": AD}, exploration={"features": 64}).digest() != conf({"ad": AD}).digest()


def test_fields_of_every_origin_are_read():
    fields = {
        "ad": AD,
        "slot": {"reads": "impression.slot", "encoding": "id", "group": "place"},
        "account": {"reads": "impression.account_id", "encoding": "id", "space": "account_id"},
        "bid": {"reads": "ad.bid", "encoding": "numeral_systems", "options": {"bases": [2, 3]}},
        "title": {"reads": "ad.title", "encoding": "words"},
        "media": {"reads": "ad.media_embedding", "encoding": "hash_id", "options": {"numbers": 4}},
        "hour": {"reads": "context.hour", "encoding": "numeral_systems"},
        "spent": {"reads": "history.ad_click.sum.value", "encoding": "numeral_systems", "days": 28},
        "again": {"reads": "history.ad_click.same.account", "encoding": "numeral_systems"},
        "taste": {"reads": "user.embedding", "encoding": "numbers"},
    }
    config = conf(fields, score={"click": "bid", "conversion": "2.5"}, serving={"slot": "top"})
    assert config.ranking_tasks == ("click", "conversion")
    assert config.ranking.space_of("account") == "account_id"
    assert config.ranking.space_of("ad") == "ad"
    assert config.ranking_name == "alure_user_model_run_ranking"


def test_a_sequence_shares_its_ids_with_its_target():
    sequences = {"clicked": {"source": "ad_click", "category": "account_id", "target": "account"}}
    fields = {"account": {"reads": "impression.account_id", "encoding": "id"}}
    assert conf(fields, sequences=sequences).ranking.space_of("account") == "account_id"


def test_the_conf_of_before_keeps_its_digest():
    plain = build(Config, {"streams": STREAMS, "labels": LABELS})
    assert conf().digest() == plain.digest()
    assert conf({"ad": AD}).digest() != plain.digest()
    fields = {"ad": {"reads": "impression.ad_id", "encoding": "id"}}
    before_schemes = build(Config, {"streams": STREAMS, "ranking": {"fields": fields}})
    assert before_schemes.digest() == "266b90a2dd880437", "settings of today, at their defaults, leave it alone"
    assert build(Config, {"streams": STREAMS, "ranking": {"fields": fields, "scheme": "stem"}}).digest() != "266b90a2dd880437"


def test_tasks_are_grouped_into_towers_and_one_may_be_the_main_one():
    config = conf({"ad": AD}, scheme="stem_al", main_task="conversion", towers={"buying": ["conversion"]}, score={"conversion": "bid"})
    assert config.ranking.towers == {"buying": ("conversion",)}
    assert conf({"ad": AD}, towers={"all": ["click", "conversion"]}).ranking.scheme == "ame"


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ({"reads": "ad_id", "encoding": "id"}, "allowed: ORIGIN.NAME, with an origin of impression, ad"),
        ({"reads": "add.bid", "encoding": "id"}, "names the origin 'add'; did you mean 'ad'"),
        ({"reads": "ad.bids", "encoding": "id"}, "names 'bids'; did you mean 'bid'"),
        ({"reads": "ad.bid", "encoding": "id"}, "encoding is 'id'; allowed: for ad.bid, numeral_systems or standardized"),
        ({"reads": "ad.media_embedding", "encoding": "words"}, "allowed: for ad.media_embedding, hash_id or numbers"),
        (
            {"reads": "ad.bid", "encoding": "mns"},
            "encoding is 'mns'; allowed: id, numeral_systems, standardized, words, hash_id, numbers",
        ),
        (
            {"reads": "impression.slots", "encoding": "id"},
            "names the attribute of labels.impression_attributes 'slots'; did you mean 'slot'",
        ),
        ({"reads": "impression.slot", "encoding": "numeral_systems"}, "ranking.fields.x.encoding is 'numeral_systems'; allowed: id"),
        ({"reads": "impression.ad_id", "encoding": "numeral_systems"}, "allowed: id"),
        ({"reads": "history.ad_click.mean", "encoding": "numeral_systems"}, "allowed: history.STREAM.count, .days_since"),
        ({"reads": "history.ad_click.sum", "encoding": "numeral_systems"}, "allowed: history.STREAM.count"),
        ({"reads": "history.ad_clik.count", "encoding": "numeral_systems"}, "names the source 'ad_clik'; did you mean 'ad_click'"),
        ({"reads": "history.ad_click.sum.worth", "encoding": "numeral_systems"}, "names the numeric attribute of ad_click 'worth'"),
        ({"reads": "history.ad_click.same.y", "encoding": "numeral_systems"}, "names the field 'y'"),
        ({"reads": "history.ad_click.days_since_same.y", "encoding": "standardized"}, "names the field 'y'"),
        ({"reads": "history.ad_click.decayed_same.y", "encoding": "standardized"}, "days is 0.0; allowed: above 0"),
        ({"reads": "history.ad_click.count", "encoding": "id"}, "for history.ad_click.count, numeral_systems"),
        ({"reads": "ad.bid", "encoding": "numeral_systems", "days": 3}, "days is 3.0; allowed: 0 but for history fields"),
    ],
)
def test_a_field_that_cannot_be_read_is_one_sentence(field, says):
    with pytest.raises(ConfigError) as raised:
        conf({"x": field})
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"sequences": {"s": {"source": "ad_clik", "category": "account_id", "target": "ad"}}}, "source names the source 'ad_clik'"),
        ({"sequences": {"s": {"source": "ad_click", "category": "value", "target": "ad"}}}, "category names 'value'"),
        ({"sequences": {"s": {"source": "ad_click", "category": "item_id", "target": "add"}}}, "names the field 'add'; did you mean 'ad'"),
        ({"tasks": ["clik"]}, "ranking.tasks names the task 'clik'; did you mean 'click'"),
        ({"score": {"clik": "bid"}}, "ranking.score names the task 'clik'"),
        ({"score": {"click": "bids"}}, "ranking.score.click is 'bids'; allowed: bid, value, or a number"),
        ({"serving": {"slots": "top"}}, "ranking.serving names the attribute of labels.impression_attributes 'slots'"),
        ({"gate": -1}, "ranking.gate is -1"),
        ({"scenario": "add"}, "ranking.scenario names the field 'add'; did you mean 'ad'"),
        ({"scenario": "ad", "exploration": {"features": 64}}, "ranking.exploration is on beside ranking.scenario='ad'"),
        ({"scheme": "mmoee"}, "ranking.scheme names the scheme 'mmoee'; did you mean 'mmoe'"),
        ({"scheme": "stem_al"}, "ranking.main_task is empty; allowed with the scheme 'stem_al': one of click, conversion"),
        ({"main_task": "click"}, "ranking.main_task is 'click'; allowed: none"),
        ({"auxiliary_weight": 0}, "ranking.auxiliary_weight is 0.0; allowed: 1 but with the scheme stem_al"),
        ({"towers": {"one": ["clik"]}}, "ranking.towers.one names the task 'clik'; did you mean 'click'"),
        ({"towers": {"One": ["click"]}}, "ranking.towers names 'One'; allowed: at most 64 small letters"),
        (
            {"scheme": "stem_al", "main_task": "click", "score": {"conversion": "bid"}},
            "ranking.score names the auxiliary task 'conversion', which the trained model no longer predicts",
        ),
    ],
)
def test_what_is_not_declared_is_one_sentence(more, says):
    with pytest.raises(ConfigError) as raised:
        conf({"ad": AD}, **more)
    assert says in str(raised.value)


@pytest.mark.parametrize("name", ["Ad", "a.b", "item_id", "a__b", "1a", ""])
def test_a_field_needs_a_name_that_columns_can_have(name):
    with pytest.raises(ConfigError, match="ranking.fields names"):
        conf({name: AD})


TASKS = {
    "click": {"source": "ad_click"},
    "spent": {"source": "ad_click", "sum": "value"},
    "dear": {"source": "ad_click", "at_least": {"value": 9}},
}
OWN = {"x": {"reads": "example.x", "encoding": "numeral_systems"}}


def with_sums(fields=None, **more):
    labels = LABELS | {"tasks": TASKS}
    return build(Config, {"streams": STREAMS, "labels": labels, "ranking": {"fields": {"ad": AD} if fields is None else fields} | more})


def test_a_sum_is_predicted_where_the_conf_names_it_and_left_out_where_it_names_no_task():
    config = with_sums(tasks=["spent", "click"], score={"click": "bid", "spent": "0.2"})
    assert config.ranking_tasks == ("spent", "click")
    assert config.ranking_values == ("spent",)
    assert with_sums().ranking_tasks == ("click", "dear")
    assert with_sums().ranking_values == ()
    assert with_sums(tasks=["spent", "click"], scheme="stem_al", main_task="spent").ranking_values == ("spent",)
    assert with_sums(OWN, tasks=["y", "z"], values=["z"]).ranking_values == ("z",)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"tasks": ["spend"]}, "ranking.tasks names the task 'spend'; did you mean 'spent'"),
        ({"values": ["spent"], "tasks": ["spent"]}, "ranking.values is ('spent',); allowed: none: of streams, the tasks with `sum`"),
        ({"score": {"spent": "1"}}, "ranking.score names the task 'spent'"),
        ({"tasks": ["spent"], "score": {"spent": "value"}}, "ranking.score.spent is 'value', but the task is a value already; allowed: a"),
        ({"tasks": ["spent"], "score": {"spent": "bid"}}, "ranking.score.spent is 'bid', but the task is a value already"),
        ({"tasks": ["spent"], "exploration": {"features": 64}}, "ranking.exploration is of tasks whose label is 0 or 1, but ranking.tasks"),
        ({"tasks": ["click"], "score": {"dear": "1"}}, "ranking.score names the task 'dear'"),
        ({"fields": OWN, "tasks": ["y"], "values": ["z"]}, "ranking.values names the task 'z'"),
        ({"fields": OWN, "tasks": ["y", "expected_y"], "values": ["y"]}, "whose score is the column 'expected_y', as another task is"),
        ({"fields": OWN, "tasks": ["y"], "values": ["y"], "score": {"y": "bid"}}, "ranking.score.y is 'bid', but the task is a value"),
    ],
)
def test_a_value_task_that_cannot_be_is_one_sentence(more, says):
    with pytest.raises(ConfigError) as raised:
        with_sums(**more)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_sum_is_no_task_of_the_user_model():
    objectives = {"objectives": {"tasks": {"spent": 0.5}}}
    with pytest.raises(ConfigError, match=r"training.objectives.tasks names the task 'spent'"):
        build(Config, {"streams": STREAMS, "labels": LABELS | {"tasks": TASKS}, "training": objectives})


def test_a_conf_without_values_has_the_digest_that_it_had():
    assert "values" not in as_dict(conf({"ad": AD}), "2026-11-29")["ranking"]
    own = {"streams": STREAMS, "ranking": {"fields": OWN, "tasks": ["y", "z"]}}
    assert build(Config, own).digest() != build(Config, own | {"ranking": own["ranking"] | {"values": ["z"]}}).digest()


def test_a_scenario_is_a_field_of_ids_and_without_one_the_digest_stays():
    slot = {"slot": {"reads": "impression.slot", "encoding": "id"}, "bid": {"reads": "ad.bid", "encoding": "standardized"}}
    assert conf(slot, scenario="slot").ranking.scenario == "slot"
    assert conf(slot, scenario="").digest() == conf(slot).digest() != conf(slot, scenario="slot").digest()
    with pytest.raises(ConfigError, match="ranking.scenario is 'bid', whose encoding is standardized; allowed: a field with"):
        conf(slot, scenario="bid")
