"""Contradictory pairs: which they are, and how far apart they are under embeddings that are planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alure_spark.analysis.entanglement import Embedding, contradictory, distances, embeddings_of, entanglement, similarities
from alure_spark.analysis.entanglement_report import entanglement_report
from alure_spark.batches.batch import Impressions, JaggedBatch, offsets_of
from alure_spark.config import ExpertConfig
from alure_spark.errors import DataError
from alure_spark.ranking.network import RankingNetwork
from alure_spark.ranking.spec import FieldSpec, RankingSpec

USERS, ADS, DIMENSION = 30, 20, 4
FIELDS = {"user": FieldSpec("id", {"size": USERS}), "ad": FieldSpec("id", {"size": ADS}, group="ad", part="ad")}
TASKS = ("click", "conversion")
SPEC = RankingSpec(FIELDS, {"one": DIMENSION}, {"ipnn": ExpertConfig("ipnn", "one", {"with_vectors": False})}, TASKS, hidden=4, tower=())
ROWS = np.stack([its.ravel() for its in np.meshgrid(np.arange(USERS), np.arange(ADS), indexing="ij")])


def pairs():
    """Every user with every ad."""
    count = ROWS.shape[1]
    zeros, user, ad = torch.zeros(count, dtype=torch.int64), *map(torch.from_numpy, ROWS)
    labels = {task: zeros.float() for task in TASKS}
    shown = Impressions(
        offsets_of(torch.ones(count, dtype=torch.int64)), zeros + 1, {"user": user, "ad": ad}, {}, labels, torch.ones(count), zeros,
        zeros.bool(),
    )  # fmt: skip
    return JaggedBatch("", tuple(map(str, range(count))), zeros, zeros + 2, {}, shown)


def taste(seed, against=0):
    """(USERS + ADS, DIMENSION): users, then ads; in so many dimensions the ads are turned round."""
    rows = np.random.default_rng(seed).normal(size=(USERS + ADS, DIMENSION))
    rows[USERS:, :against] *= -1
    return torch.from_numpy(rows).float()


def planted(spec, tables):
    """A network with these rows, whose logits rise with the inner products of all of its tables."""
    torch.manual_seed(0)
    network = RankingNetwork(spec)
    with torch.no_grad():
        for name, rows in tables.items():
            network.tables[name].weight.copy_(rows)
        for branch in network.experts.values():
            branch.layer.weight.fill_(1.0)
            branch.layer.bias.fill_(50.0)  # no ReLU cuts
        for tower in network.towers.values():
            tower[-1].weight.fill_(1.0)
    return network.eval()


def single(task, rows):
    return planted(replace(SPEC, tasks=(task,), scheme="shared_bottom"), {"one": rows})


CLICK, CONVERSION = taste(1), taste(1, against=2)


def cosine(rows):
    return np.array([
        float(np.dot(rows[u], rows[USERS + a]) / np.linalg.norm(rows[u]) / np.linalg.norm(rows[USERS + a])) for u, a in ROWS.T
    ])  # fmt: skip


def test_a_distance_is_the_share_of_pairs_that_are_nearer():
    found, logits = similarities(single("click", CLICK), [pairs()])
    np.testing.assert_allclose(found["one",], cosine(CLICK.double().numpy()), atol=1e-6)
    ours = distances(found["one",], logits)
    for place in (0, 17, 599):
        assert ours[place] == pytest.approx(100 * (found["one",] > found["one",][place]).sum() / 599)


def test_interest_that_is_learnt_as_the_opposite_of_nearness_counts_turned_round():
    turned = planted(replace(SPEC, tasks=("click",), scheme="shared_bottom"), {"one": CLICK})
    with torch.no_grad():
        turned.towers["click"][-1].weight.fill_(-1.0)
    found, logits = similarities(turned, [pairs()])
    np.testing.assert_allclose(distances(found["one",], logits), 100 - distances(found["one",], -logits), atol=1e-9)
    straight = distances(*_of(single("click", CLICK)))
    np.testing.assert_allclose(distances(found["one",], logits), 100 - straight, atol=1e-9)


def _of(network):
    found, logits = similarities(network, [pairs()])
    return found["one",], logits


def test_a_pair_is_contradictory_above_the_60th_percentile_in_one_and_below_the_40th_in_the_other():
    one, other = cosine(CLICK.double().numpy()), cosine(CONVERSION.double().numpy())
    expected = (one > np.percentile(one, 60)) & (other < np.percentile(other, 40))
    chosen = contradictory(distances(*_of(single("click", CLICK))), distances(*_of(single("conversion", CONVERSION))))
    np.testing.assert_array_equal(chosen, expected)
    assert 20 < chosen.sum() < 300


def test_a_shared_embedding_has_one_distance_for_both_tasks_and_stem_has_one_for_each():
    stem = planted(replace(SPEC, scheme="stem"), {"one-click": CLICK, "one-conversion": CONVERSION, "one": taste(9)})
    with torch.no_grad():  # a tower hears its own table
        for task, place in (("click", 0), ("conversion", 0)):
            stem.gates[task].weight.zero_()
            stem.gates[task].bias.fill_(-50.0)
            stem.gates[task].bias[place] = 50.0
    shared = planted(replace(SPEC, scheme="ple"), {"one": CLICK})
    alone = [single("click", CLICK), single("conversion", CONVERSION)]
    found = entanglement(TASKS, alone, {"PLE": shared, "STEM": stem}, [pairs()])
    assert {name: list(its) for name, its in found.distances.items()} == {
        "single-task": ["click", "conversion"], "PLE": ["one"], "STEM": ["click", "conversion", "shared"],
    }  # fmt: skip
    assert found.gap("single-task", *TASKS) > 30
    assert found.gap("STEM", *TASKS) == pytest.approx(found.gap("single-task", *TASKS), abs=1e-6)
    assert found.distances["PLE"]["one"].max() < 40, "the shared table is that of the first task"
    assert found.distances["STEM"]["conversion"].min() > 60
    metrics, figures, text = entanglement_report([found], "analyse_entanglement")
    assert list(figures) == ["analyse_entanglement/click_conversion.png"]
    assert metrics["click_conversion.contradictory_pairs"] == found.contradictory == len(found.distances["PLE"]["one"])
    assert metrics["click_conversion.STEM.conversion.distance"] > 60
    assert f"pairs near in click, far in conversion: {found.contradictory:,} of 600" in text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"scheme": "ple"}, {"one": Embedding(("one",), TASKS)}),
        (
            {"scheme": "stem"},
            {
                "click": Embedding(("one-click",), ("click",)),
                "conversion": Embedding(("one-conversion",), ("conversion",)),
                "shared": Embedding(("one",), TASKS),
            },
        ),
        (
            {"tables": {"one": 4, "two": 2}, "experts": {"a": ExpertConfig("fm", "one"), "b": ExpertConfig("fm", "two")}},
            {"one": Embedding(("one",), TASKS), "two": Embedding(("two",), TASKS)},
        ),
        ({"scheme": "stem", "towers": {"both": TASKS}}, {"both": Embedding(("one-both",), TASKS), "shared": Embedding(("one",), TASKS)}),
    ],
)
def test_the_embeddings_of_a_scheme_are_those_of_towers_and_the_shared_ones(change, expected):
    assert embeddings_of(replace(SPEC, **change)) == expected


def test_of_tasks_that_agree_it_is_said_that_they_do():
    same = [single("click", CLICK), single("conversion", CLICK)]
    found = entanglement(TASKS, same, {"PLE": planted(replace(SPEC, scheme="ple"), {"one": CLICK})}, [pairs()])
    metrics, figures, text = entanglement_report([found], "analyse_entanglement")
    assert metrics == {"click_conversion.contradictory_pairs": 0.0}
    assert not figures
    assert "far in conversion: 0 of 600" in text
    assert "the tasks agree on nearly all pairs" in text


def test_a_side_without_fields_is_a_sentence():
    with pytest.raises(DataError, match="no field of the ad that is in a table"):
        similarities(RankingNetwork(replace(SPEC, fields={"user": FIELDS["user"], "ad": replace(FIELDS["ad"], part="user")})), [pairs()])
