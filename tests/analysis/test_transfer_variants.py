"""What each variant of a transfer reads, against a list by hand, and what its results say, against a plain loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alure_spark.analysis import transfer_comparison, transfer_report
from alure_spark.analysis import transfer_variants as variants
from alure_spark.analysis.policies import Predictions
from alure_spark.analysis.transfer_comparison import Result
from alure_spark.analysis.transfer_rows import Split, require_learnable
from alure_spark.config import DownstreamConfig, FieldConfig, TransferConfig, load
from alure_spark.errors import ConfigError, DataError
from alure_spark.metrics import cluster_bootstrap
from tests.conftest import ROOT

FIELDS = {
    "taste": FieldConfig("user.embedding", "numbers"),
    "tower": FieldConfig("ad.representation", "numbers", {"adapter": "raw"}, group="ad"),
    "of_user": FieldConfig("user.cross", "numbers", {"adapter": "gate"}),
    "of_ad": FieldConfig("ad.cross", "hash_id", {"bits": 8}, group="ad"),
    "media_type": FieldConfig("impression.media_type", "id"),
}


TRANSFER = TransferConfig("hidden")


def conf(fields=FIELDS, transfer=TRANSFER, **ranking):
    plain = load(ROOT / "conf" / "test.yml")
    return replace(plain, ranking=replace(plain.ranking, fields=fields, sequences={}, **ranking), transfer=transfer)


@pytest.mark.parametrize(
    ("variant", "kept"),
    [
        ("none", {"media_type"}),
        ("ur", {"media_type", "taste"}),
        ("ur_ir", {"media_type", "taste", "tower"}),
        ("ur_ir_cr", set(FIELDS)),
        ("gate", set(FIELDS)),
        ("layer_ad", set(FIELDS)),
    ],
)
def test_a_variant_drops_fields_and_nothing_else(variant, kept):
    made = variants.variant_config(conf(), variant, {"ad": 12})
    assert set(made.ranking.fields) == kept
    assert made.ranking.fields["media_type"] == FIELDS["media_type"]
    assert replace(made.ranking, fields={}) == replace(conf().ranking, fields={})
    assert replace(made, ranking=conf().ranking, transfer=conf().transfer) == conf()


def test_an_adapter_is_that_of_every_representation_that_has_one():
    made = variants.variant_config(conf(), "nonlinear", {}).ranking.fields
    assert {name: one.options.get("adapter") for name, one in made.items()} == {
        "taste": "nonlinear", "tower": "nonlinear", "of_user": "nonlinear", "of_ad": None, "media_type": None,
    }  # fmt: skip
    assert made["of_ad"] == FIELDS["of_ad"], "bits are taken of it, whatever the adapter"


def test_another_layer_has_another_width_and_all_else_stays():
    made = variants.variant_config(conf(), "layer_crosses", {"crosses": 96})
    assert made.transfer.layer == "crosses"
    assert made.ranking.fields["of_user"].options == {"adapter": "gate", "numbers": 96}
    assert made.ranking.fields["of_ad"].options == {"bits": 8, "numbers": 96}
    assert made.ranking.fields["tower"] == FIELDS["tower"]


def test_variants_that_read_the_same_are_one():
    plain = {name: FieldConfig(one.reads, "numbers") for name, one in FIELDS.items() if name in ("taste", "of_user")}
    given = conf(plain | {"media_type": FIELDS["media_type"]})
    names = ("none", "ur", "ur_ir", "ur_ir_cr", "linear", "raw", "layer_hidden", "layer_ad")
    made = {name: variants.variant_config(given, name, {"ad": given.model.dimension}) for name in names}
    assert variants.twins(made) == {
        "none": "none", "ur": "ur", "ur_ir": "ur", "ur_ir_cr": "ur_ir_cr", "linear": "ur_ir_cr", "raw": "raw", "layer_hidden": "ur_ir_cr",
        "layer_ad": "layer_ad",
    }  # fmt: skip


def test_none_is_always_compared_and_what_cannot_be_is_one_sentence():
    assert variants.variants_of(conf(transfer=TransferConfig("hidden", compare=("ur", "raw", "ur")))) == ["none", "ur", "raw"]
    with pytest.raises(ConfigError, match="ranking.fields reads nothing of the user model; allowed: fields that read some of user.emb"):
        variants.variants_of(conf({"media_type": FIELDS["media_type"]}))
    with pytest.raises(ConfigError, match="ranking.fields reads nothing else, so that a model without them would have nothing to read"):
        variants.variants_of(conf({"taste": FIELDS["taste"]}))
    with pytest.raises(ConfigError, match="transfer.compare names layer_ad, but no field of ranking.fields reads user.cross or ad.cross"):
        two = {name: FIELDS[name] for name in ("taste", "media_type")}
        variants.variants_of(conf(two, TransferConfig("hidden", compare=("ur", "layer_ad"))))
    with pytest.raises(ConfigError, match=r"transfer.compare\[0\] is 'cr'; allowed: none, ur, ur_ir, ur_ir_cr, linear"):
        TransferConfig("hidden", compare=("cr",))
    with pytest.raises(ConfigError, match=r"transfer.compare is \('none',\); allowed: at least one to compare with none"):
        TransferConfig("hidden", compare=("none",))
    with pytest.raises(ConfigError, match=r"transfer.compare is \(\); allowed: at least one"):
        TransferConfig("hidden", compare=())
    with pytest.raises(ConfigError, match=r"transfer.compare_seeds is \(7, 7\); allowed: seeds that differ"):
        TransferConfig("hidden", compare_seeds=(7, 7))
    with pytest.raises(ConfigError, match="transfer.upstream is 'others'; allowed: all where transfer.downstream names no task"):
        TransferConfig("hidden", upstream="others")
    with pytest.raises(ConfigError, match="transfer.downstream.feed.tasks names the task 'sale'; known: click, conversion"):
        conf(transfer=TransferConfig("hidden", downstream={"feed": DownstreamConfig(tasks=("sale",))}))


def test_another_layer_is_not_made_of_impressions_that_later_labels_have_thinned_out():
    """Which of a day's impressions are left is decided by labels as of the conf's day, and a click may have come after that day."""
    given = conf(transfer=TransferConfig("hidden", compare=("ur", "layer_hidden", "layer_ad")))
    assert "layer_ad" in variants.variants_of(given)
    thinned = replace(given, labels=replace(given.labels, negative_rate=0.5))
    with pytest.raises(ConfigError, match=r"names layer_ad, which is made of the impressions that labels.negative_rate=0.5 left by"):
        variants.variants_of(thinned)
    own = replace(thinned, transfer=TransferConfig("hidden", compare=("ur", "layer_hidden")))
    assert "layer_hidden" in variants.variants_of(own), "what was published for each day knew no later label"


def test_a_downstream_task_predicts_its_own_labels():
    given = conf(towers={"both": ("click", "conversion")}, score={"click": "bid", "conversion": "value"})
    assert variants.downstream_config(given, "feed", DownstreamConfig("country = 'SE'")) == given
    fewer = variants.downstream_config(given, "feed", DownstreamConfig(tasks=("conversion",)))
    assert fewer.ranking_tasks == ("conversion",)
    assert variants.downstream_config(given, "feed", DownstreamConfig(tasks=("conversion", "conversion"))) == fewer, "named twice is once"
    assert (fewer.ranking.score, fewer.ranking.towers) == ({"conversion": "value"}, {})
    assert variants.downstream_tasks(given) == {"all": DownstreamConfig()}


def test_rows_that_nothing_can_be_learnt_from_are_refused_with_the_reason():
    given = conf({"taste": FIELDS["taste"], "media_type": FIELDS["media_type"]}, tasks=("click",), score={})
    good = Split(500, 40, {"click": 20.0}, {"taste": 0.4})
    require_learnable("feed", given, {"train": good, "validation": good})
    require_learnable("feed", given, {"train": good, "validation": good._replace(responses={"click": 0}, there={"taste": 0.0})})
    for splits, sentence in (
        ({"train": good}, "transfer.downstream.feed: its condition holds for 500 impressions, none of them in the validation split"),
        (
            {},
            "its condition holds for 0 impressions, none of them in the training split; ids are hashed there, so compare",
        ),
        ({"train": good._replace(there={"taste": 0.0}), "validation": good}, "has what ranking.fields.taste reads, known before it"),
        ({"train": good._replace(responses={"click": 0.0}), "validation": good}, "the task 'click' has no response in its training split"),
        ({"train": good._replace(responses={"click": 500.0}), "validation": good}, "'click' has a response to every impression"),
    ):
        with pytest.raises(DataError, match=sentence):
            require_learnable("feed", given, splits)


def evaluated(noise, seed, users=150):
    """One model's probabilities of the same 8 impressions of each user."""
    truth = np.random.default_rng(0).uniform(0.05, 0.95, users * 8)
    labels = (np.random.default_rng(1).random(len(truth)) < truth).astype(float)[:, None]
    probability = np.clip(truth + noise * np.random.default_rng(seed).normal(size=len(truth)), 0.01, 0.99)[:, None]
    weights = np.where(np.arange(len(truth)) % 3 == 0, 2.0, 1.0)
    return Predictions(("click",), labels, probability, weights, np.repeat(np.arange(users), 8), np.full(len(truth), "all", object))


def entropy(one, drawn):
    """Normalized entropy, impression by impression."""
    loss = rate = total = 0.0
    for label, p, weight in zip(one.labels[:, 0], one.probabilities[:, 0], one.weights * drawn, strict=True):
        loss -= weight * np.log(p if label else 1 - p)
        rate, total = rate + weight * label, total + weight
    rate /= total
    return loss / total / -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))


def test_a_gain_is_paired_with_none_seed_by_seed_and_its_interval_is_over_users():
    mine, none = [[evaluated(noise, seed)] for noise, seed in ((0.1, 3), (0.3, 1))]
    ne, gain, low, high = transfer_comparison.paired(mine, none, "ur")
    everyone = np.ones(len(mine[0].users))
    assert ne == pytest.approx(entropy(mine[0], everyone))
    assert gain == pytest.approx(1 - entropy(mine[0], everyone) / entropy(none[0], everyone))
    interval = cluster_bootstrap(lambda drawn: 1 - entropy(mine[0], drawn) / entropy(none[0], drawn), mine[0].users, 200)
    assert (low, high) == pytest.approx(interval)
    assert 0 < low < gain < high
    assert transfer_comparison.paired(none, none, "none") == (pytest.approx(entropy(none[0], everyone)), None, None, None)


def test_where_nothing_can_be_measured_nothing_is_said():
    none = evaluated(0.3, 1)
    one_class = replace(none, labels=np.zeros_like(none.labels))
    assert transfer_comparison.paired([one_class], [one_class], "ur") == (None, None, None, None)
    labels = np.zeros_like(none.labels)
    labels[:8] = 1  # one user has all responses
    rare = replace(none, labels=labels)
    ne, *others = transfer_comparison.paired([rare], [rare], "ur")
    assert ne > 0
    assert others == [None, None, None]
    with pytest.raises(DataError, match="two variants were evaluated on different impressions"):
        transfer_comparison.paired([none], [one_class], "ur")


def result(variant, *values, ne=0.9):
    gain, low, high = values or (None, None, None)
    return Result("feed", "click", variant, 100, 5000, 400, 80, 3, ne, gain, low, high)


def test_a_difference_is_said_where_its_interval_leaves_out_0_and_else_what_could_have_been_seen():
    lines = [result("none"), result("ur", 0.02, 0.01, 0.03), result("ur_ir", -0.004, -0.02, 0.01), result("raw", -0.03, -0.04, -0.02)]
    assert transfer_report.sentence(lines) == (
        "feed, click, against none with 3 seeds: better: ur +2.0% (1.0% to 3.0%); worse: raw -3.0% (-4.0% to -2.0%); "
        "no difference can be shown on 80 users: ur_ir (1.5% could have been seen)"
    )
    same = [result("none"), result("ur", 0.0, 0.0, 0.0), result("ur_ir")]
    assert transfer_report.sentence(same).endswith("reads the same: ur; nothing can be said of ur_ir, for too few users have a response")
    assert "have labels of one class only" in transfer_report.sentence([result("none", ne=None)])
    gains = transfer_report.gains_of([*lines, result("gate")])
    assert gains == {"ur": (0.02, 0.01, 0.03), "ur_ir": (-0.004, -0.02, 0.01), "raw": (-0.03, -0.04, -0.02)}
    drawn = transfer_report.gain_bars(gains, "feed, click").axes[0].patches
    assert [bar.get_width() for bar in drawn] == [-0.03, -0.004, 0.02]
