"""GraphSAGE: the formulas against loops, what its two layers can see, and what it learns of planted worlds and of random ones."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from alure_spark.config import SimilarityConfig
from alure_spark.errors import DataError, TrainingError
from alure_spark.metrics import paired_interval
from alure_spark.ranking import graph_sage
from alure_spark.ranking.graph_sage import ClickGraph, GraphSage
from alure_spark.training.click_graph import graph_of
from alure_spark.training.graph_sage import model_id, share_in_order, train_graph_sage
from tests.ranking.click_worlds import clicks, drawn_rows

SMALL = SimilarityConfig(dimension=8, fanout=(5, 4), batch_edges=128, epochs=12)


def graph(pairs, share=0.0, width=5, seed=0):
    return graph_of(drawn_rows(pairs, share, seed), width).graph


def model(seed=1, **more):
    """In double precision, over 12 users and 8 items; some nodes have fewer neighbors than the fanout."""
    torch.manual_seed(seed)
    sage = GraphSage(graph(clicks(12, 8, 2, 3, 0.5)), **({"dimension": 3, "fanout": (3, 2), "negatives": 4} | more)).double()
    sage.table.weight.data *= 10  # so that the ReLU cuts some
    return sage


def layer(of, own, near):
    mean = torch.stack(near).mean(0) if near else torch.zeros_like(own)
    return of.own.weight @ own + of.own.bias + of.near.weight @ mean


def by_hand(sage, node):
    """The vector of a node, by loops over neighbors and theirs."""

    def sampled(of, fanout):
        return [other for other in sage.neighbours[of, :fanout].tolist() if other >= 0]

    def hidden(of):
        near = [sage.table.weight[other] for other in sampled(of, sage.fanout[1])]
        return layer(sage.first, sage.table.weight[of], near).clamp(min=0)

    z = layer(sage.second, hidden(node), [hidden(other) for other in sampled(node, sage.fanout[0])])
    return z / z.norm()


def test_the_vectors_are_those_of_loops_and_of_length_one():
    sage = model()
    assert (sage.neighbours < 0).any()
    nodes = torch.tensor([19, 3, 3, 0, 12, 7])
    torch.testing.assert_close(sage(nodes), torch.stack([by_hand(sage, node) for node in nodes.tolist()]))
    torch.testing.assert_close(sage.embeddings(), torch.stack([by_hand(sage, node) for node in range(20)]).detach())
    torch.testing.assert_close(sage.embeddings().norm(dim=1), torch.ones(20).double())


@pytest.mark.parametrize("negatives", [1, 4, 9])
def test_the_loss_is_that_of_loops(negatives):
    """With one negative it is the paper's; with more, log Q is taken off every product."""
    sage, users, items = model(negatives=negatives), torch.tensor([0, 3, 3, 11, 6]), torch.tensor([12, 19, 14, 12, 15])
    torch.manual_seed(3)
    drawn = sage.draw(5).tolist()
    torch.manual_seed(3)
    loss = sage.losses(users, items)["similarity"]
    z, expected = sage.embeddings(), 0.0
    for place, (user, item) in enumerate(zip(users.tolist(), items.tolist(), strict=True)):
        expected += math.log(1 + math.exp(math.log(negatives) - float(z[user] @ z[item])))
        for turn in range(negatives):
            expected += math.log(1 + math.exp(float(z[user] @ z[drawn[(place - turn) % 5]]) - math.log(negatives)))
    assert loss.item() == pytest.approx(expected / 5, rel=1e-9)


def test_the_gradient_is_that_of_finite_differences():
    sage, users, items = model(), torch.tensor([0, 3, 5, 11]), torch.tensor([12, 19, 14, 12])

    def loss():
        torch.manual_seed(3)
        return sage.losses(users, items)["similarity"]

    loss().backward()
    for parameter in sage.parameters():
        gradient = (parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad).flatten()
        flat, expected = parameter.data.view(-1), torch.zeros_like(gradient)
        for place in range(len(flat)):
            sides = []
            for sign in (1, -1):
                flat[place] += sign * 1e-6
                with torch.no_grad():
                    sides.append(float(loss()))
                flat[place] -= sign * 1e-6
            expected[place] = (sides[0] - sides[1]) / 2e-6
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)
        assert expected.abs().max() > 1e-6


def test_groups_of_parameters_hold_each_once_and_the_table_is_sparse():
    sage = model()
    grouped = [parameter for group in sage.parameter_groups() for parameter in group.parameters]
    assert sorted(map(id, grouped)) == sorted(map(id, sage.parameters()))
    torch.manual_seed(3)
    sage.losses(torch.tensor([0]), torch.tensor([12]))["similarity"].backward()
    assert sage.table.weight.grad.is_sparse


def test_a_step_moves_no_node_that_the_batch_does_not_see():
    """Adam moves a row also by a gradient of 0. Of two paths that do not touch, a batch is on the second one."""
    torch.manual_seed(1)
    sage = GraphSage(graph(np.concatenate([path(6), path(6) + 10])), 3, (5, 5), negatives=1)
    sage.draw = lambda count: torch.full((count,), len(sage.neighbours) - 1)
    sage.losses(torch.tensor([sage.users - 1]), torch.tensor([len(sage.neighbours) - 1]))["similarity"].backward()
    touched = set(sage.table.weight.grad.coalesce().indices()[0].tolist())
    first_path = set(range(4)) | {sage.users, sage.users + 1, sage.users + 2}
    assert touched
    assert not touched & first_path


def test_negatives_are_drawn_by_degree_to_the_power_of_three_quarters():
    sage = model()
    degree = torch.bincount(graph(clicks(12, 8, 2, 3, 0.5)).edges[:, 1] - 12, minlength=8).double()
    expected = degree.pow(0.75) / degree.pow(0.75).sum()
    torch.manual_seed(5)
    drawn = torch.bincount(sage.draw(200_000) - 12, minlength=8).double() / 200_000
    assert (drawn - expected).abs().max() < 4 * math.sqrt(0.25 / 200_000)
    assert (degree / degree.sum() - expected).abs().max() > 0.01, "the power matters"


def path(length):
    """user 0 - item 0 - user 1 - item 1 - ...: every other node is a user."""
    return np.array([(step // 2 + step % 2, step // 2) for step in range(length)])


def test_a_node_sees_neighbors_and_theirs_and_nobody_further():
    """Along a path the node at distance 2 matters, that at distance 3 does not."""
    torch.manual_seed(1)
    of_path = graph(path(6))
    sage = GraphSage(of_path, 3, (5, 5)).double()
    along = [0, of_path.users, 1, of_path.users + 1]  # user 0, item 0, user 1, item 1
    before = sage(torch.tensor([0]))
    moved = []
    for node in along:
        old = sage.table.weight.data[node].clone()
        sage.table.weight.data[node] += 1.0
        moved.append(float((sage(torch.tensor([0])) - before).abs().max().detach()))
        sage.table.weight.data[node] = old
    assert min(moved[:3]) > 1e-6
    assert moved[3] == 0


def test_users_without_a_shared_item_are_alike_if_the_users_of_their_items_are():
    """Users 0 and 1 click items 0 and 1, which users 2 and 3 click both; item 2 of user 4 is clicked by others."""
    pairs = np.array([(0, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1), (4, 2), (5, 2), (6, 2)])
    torch.manual_seed(1)
    sage = GraphSage(graph(pairs), 4, (5, 5)).double()
    for same in ((0, 1, 4), (7, 8, 9)):  # users 0, 1, 4 and items 0, 1, 2 start alike: what differs is who else clicks
        sage.table.weight.data[list(same)] = sage.table.weight.data[same[0]].clone()
    z = sage.embeddings()
    torch.testing.assert_close(z[0], z[1])
    assert float(z[0] @ z[4]) < 1 - 1e-4


@pytest.fixture(scope="module")
def communities():
    """Of three seeds: (graph with a quarter held out, embeddings) of two communities whose users stay at home 95 % of the time."""
    return [trained(clicks(300, 120, 2, 8, 0.95, seed), seed) for seed in range(3)]


def trained(pairs, seed):
    world = graph(pairs, 0.25, seed=seed)
    return world, train_graph_sage(world, SMALL)[0].embeddings()


def test_cosines_of_a_planted_community_order_held_out_clicks(communities):
    """The most that can be had is .74: an item of one's own community against any, half of which are of the own one, too."""
    for world, z in communities:
        user, item = world.held_out.T
        other = torch.arange(world.users, len(z))[None].expand(len(user), -1)
        cosines = (z[user][:, None] * z[other]).sum(2).numpy()  # (H, items)
        home = (user[:, None] % 2 == (other - world.users) % 2).numpy()
        own, foreign = ((cosines * mask).sum(1) / mask.sum(1) for mask in (home, ~home))
        assert paired_interval(own, foreign, resamples=200).low > 0.4
        assert len(item) > 300
        assert share_in_order(world, z, seed=1) > 0.68


def test_users_of_a_community_are_alike_also_without_a_shared_item(communities):
    for world, z in communities:
        had = torch.zeros(world.users, world.items)
        for edges in (world.edges, world.held_out):
            had[edges[:, 0], edges[:, 1] - world.users] = 1
        apart = (had @ had.T == 0).numpy()
        cosines, user = (z[: world.users] @ z[: world.users].T).numpy(), np.arange(world.users)
        same = (user[:, None] % 2 == user % 2) & apart
        other = (user[:, None] % 2 != user % 2) & apart
        within, across = ((cosines * mask).sum(1) / mask.sum(1) for mask in (same, other))
        assert paired_interval(within, across, resamples=200).low > 0.4


def test_in_a_random_world_held_out_clicks_are_not_ordered():
    """The null twin. Clicks that were learned from are ordered there as well: only held-out ones say something."""
    shares, weights = [], []
    for seed in range(5):
        world, z = trained(clicks(300, 120, 2, 8, 0.0, seed), seed)
        shares.append(share_in_order(world, z, seed=1))
        weights.append(len(world.held_out) // 2)
        seen = ClickGraph(world.users, world.neighbours, world.edges[:0], world.edges)
        assert share_in_order(seen, z, seed=1) > 0.57
    mean = np.average(shares, weights=weights)
    assert abs(mean - 0.5) < 3 * 0.5 / math.sqrt(sum(weights))


def test_many_negatives_do_not_draw_all_cosines_to_one_side(communities, monkeypatch):
    """As they do with the paper's loss, in which vectors of length 1 cannot follow log(lift / Q)."""
    for world, z in communities:
        assert mean_cosine(world, z) > 0.2
    monkeypatch.setattr(graph_sage, "math", SimpleNamespace(log=lambda negatives: 0.0))
    world, z = trained(clicks(300, 120, 2, 8, 0.95), 0)
    assert mean_cosine(world, z) < -0.9
    assert share_in_order(world, z, seed=1) < 0.62


def mean_cosine(world, z):
    """Of the clicks that are learned from."""
    return (z[world.edges[:, 0]] * z[world.edges[:, 1]]).sum(1).mean()


def weights_of(sage):
    return {name: value.clone() for name, value in sage.state_dict().items()}


class Killed(Exception):
    pass


def test_training_twice_and_training_after_a_kill_end_in_the_same_bits(tmp_path):
    world = graph(clicks(60, 40, 2, 6, 0.9), 0.1)
    config = SimilarityConfig(dimension=4, fanout=(3, 3), batch_edges=10, epochs=3)
    sage, fitted = train_graph_sage(world, config)
    torch.manual_seed(99)  # what torch's own generator did before does not matter
    state = torch.get_rng_state()
    again, _ = train_graph_sage(world, config)
    assert torch.equal(torch.get_rng_state(), state)

    def kill(epoch, step, losses):
        if (epoch, step) == (1, 27):
            raise Killed

    with pytest.raises(Killed):
        train_graph_sage(world, config, tmp_path / "checkpoint", kill)
    steps = []
    resumed, whole = train_graph_sage(world, config, tmp_path / "checkpoint", lambda epoch, step, losses: steps.append((epoch, step)))
    assert steps[0] > (0, 1)
    assert whole == fitted
    assert {"train.similarity", "validation.similarity"} < set(fitted.curves[0])
    for other in (again, resumed):
        assert all(torch.equal(value, weights_of(other)[name]) for name, value in weights_of(sage).items())
        assert model_id(other, config) == model_id(sage, config)
    seeded = SimilarityConfig(dimension=4, fanout=(3, 3), batch_edges=10, epochs=3, seed=8)
    elsewhere = train_graph_sage(world, seeded)[0]
    assert not torch.equal(elsewhere.table.weight, sage.table.weight)
    assert len({model_id(one, conf) for one in (elsewhere, sage) for conf in (seeded, config)}) == 4, "of the weights and of the conf"


def test_nobody_sees_a_held_out_edge_and_every_node_keeps_one():
    pairs = clicks(60, 40, 2, 6, 0.9)
    world = graph(pairs, 0.3, width=50)
    edges, held_out = ({tuple(edge) for edge in part.tolist()} for part in (world.edges, world.held_out))
    assert edges | held_out == {(user, item + world.users) for user, item in pairs.tolist()}
    assert len(held_out) > 20
    seen = {(node, near) for node, row in enumerate(world.neighbours.tolist()) for near in row if near >= 0}
    assert seen == edges | {(item, user) for user, item in edges}
    assert (world.neighbours >= 0).any(1).all()


def test_the_share_in_order_is_that_of_loops():
    world = graph(clicks(60, 40, 2, 6, 0.9), 0.3)
    z = torch.nn.functional.normalize(torch.randn(100, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    measured = world.held_out.tolist()[1::2]
    other = np.random.default_rng(4).permutation([item for _, item in measured])
    clicked = {tuple(edge) for edge in torch.cat([world.edges, world.held_out]).tolist()}
    won = [
        float(z[user] @ z[item] > z[user] @ z[place]) + 0.5 * float(item == place)
        for (user, item), place in zip(measured, other, strict=True)
        if (user, place) not in clicked
    ]
    assert len(won) < len(measured)
    assert share_in_order(world, z, seed=4) == pytest.approx(np.mean(won))


def test_a_graph_of_one_item_and_a_rate_that_is_too_high_are_sentences():
    with pytest.raises(DataError, match="has 3 users and 1 items with an edge; it takes 2 of each"):
        train_graph_sage(graph(np.array([(0, 0), (1, 0), (2, 0)])), SMALL)
    with pytest.raises(TrainingError, match="lower similarity.learning_rate"):
        train_graph_sage(graph(clicks(12, 8, 2, 3, 0.5)), SimilarityConfig(dimension=3, learning_rate=1e15, epochs=5))
