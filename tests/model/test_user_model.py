"""Read-out, objectives and the whole model: against loops, and against one pass of the model per impression."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alure_spark.batches.batch import Impressions, SourceTokens, offsets_of, select_users
from alure_spark.batches.vocabulary import ACCOUNT, ITEM
from alure_spark.config import ObjectiveConfig
from alure_spark.model.objectives import neighbour as objectives
from alure_spark.model.objectives.labels import label_loss
from alure_spark.model.objectives.neighbour import POPULARITY, SOFTNESS, TEMPERATURE, item_pairs, neighbour_loss
from alure_spark.model.objectives.next_item import next_item_loss
from alure_spark.model.readout import RECENT_DAYS, engagements, fact_names, on_log_scale, over_item_sources, shared_names
from alure_spark.model.trainable import total
from alure_spark.model.user_model import Moments, UserModel
from tests.model.worlds import (
    AS_OF_MS,
    BEGIN_MS,
    DAY_MS,
    WIDE,
    assert_close,
    batch_of,
    cut_history,
    gradients,
    random_batch,
    shaken,
    spec_of,
)

ALL = ObjectiveConfig()
MOMENTS = Moments(cut_ms=BEGIN_MS + 200 * DAY_MS, until_ms=AS_OF_MS)


def model_of(spec):
    return shaken(UserModel(spec))


def per_impression(batch, reach):
    """One user per impression, with the history that serving would hold at its time."""
    shown = batch.impressions
    copies = select_users(replace(batch, impressions=None), shown.users())
    alone = replace(shown, offsets=torch.arange(len(shown.time_ms) + 1))
    return replace(cut_history(copies, shown.time_ms, reach), impressions=alone)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("max_events", [8, 13, 100])
@pytest.mark.parametrize(
    "more", [{}, {"ad_attention": 5, "read_layers": (0, 1)}, {"frequency_encoding": True, "ad_attention": 60}], ids=str
)
def test_history_encoded_once_gives_what_one_pass_per_impression_gives(layers, max_events, more):
    """Rows of up to 50 events, so also much longer than max_events: same logits, loss and gradients."""
    spec = replace(spec_of(layers=layers, max_events=max_events, **more), max_events={"page": 9})  # of one source serving holds fewer
    model, batch = model_of(spec), random_batch(spec, 5, 50, impressions=6)
    copies, results = per_impression(batch, lambda source: min(max_events, {"page": 9}.get(source, 100))), []
    for one in (batch, copies):
        logits = model.readout(one, model.encoder.states(one), model.encoder)
        loss = sum(
            label_loss(logits[:, column], one.impressions.labels[head], one.impressions.weight.double())
            for column, head in enumerate(("click", "conversion"))
        )
        results.append((logits, loss, gradients(model, loss)))
    assert_close(results[0][:2], results[1][:2], 1e-8)
    assert_close(results[0][2], results[1][2], 1e-6)
    assert results[0][0].std() > 0.1
    assert_close(model.probabilities(batch), torch.sigmoid(results[1][0]), 1e-8)


def test_validation_asks_for_no_next_item_that_training_has_seen():
    """Items of all events before the border are changed but for the last of each user: the same loss from the same states."""
    spec = spec_of(max_events=40)
    model, batch = model_of(spec), random_batch(spec, 6, 30)
    objective, border = ObjectiveConfig(click=0, conversion=0, neighbour=0), BEGIN_MS + 200 * DAY_MS
    states = model.encoder.states(batch)
    sources = {}
    for name, tokens in batch.sources.items():
        seen = tokens.known_at_ms < border
        sources[name] = replace(tokens, rows=tokens.rows | {ITEM: torch.where(seen, 1 + tokens.rows[ITEM] % 5, tokens.rows[ITEM])})
    moments = replace(MOMENTS, from_ms=border)
    found = [model.losses(one, moments, objective, states=states)["next_item"] for one in (batch, replace(batch, sources=sources))]
    assert_close(*found)
    assert model.losses(batch, MOMENTS, objective, states=states)["next_item"] != found[0]


def test_losses_of_the_model_are_those_of_its_parts():
    spec = spec_of()
    model, batch = model_of(spec), random_batch(spec, 6, 30, impressions=5)
    found = model.losses(batch, MOMENTS, ALL)
    assert set(found) == {"click", "conversion", "neighbour", "next_item"}
    shown, training = batch.impressions, ~batch.impressions.validation
    probability = model.probabilities(batch)[:, 0][training]
    label, weight = shown.labels["click"][training].double(), shown.weight[training].double()
    entropy = -(label * probability.log() + (1 - label) * (1 - probability).log())
    assert_close(found["click"], (entropy * weight).sum() / weight.sum())
    assert_close(
        total(found, {"click": 2, "conversion": 0, "neighbour": 0.5, "next_item": 0}) - 2 * found["click"], 0.5 * found["neighbour"]
    )
    assert_close(model.losses(batch, MOMENTS, ALL, states=model.encoder.states(batch)), found)


def test_the_groups_of_parameters_hold_each_once_and_quantizers_never():
    quantizers = {"media": {"levels": 2, "codes": 3, "hidden": 4}}
    model = UserModel(replace(spec_of(WIDE), quantizers=quantizers))
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = {group.name: [names[parameter] for parameter in group.parameters] for group in model.parameter_groups()}
    grouped = [name for members in groups.values() for name in members]
    assert sorted(grouped) == sorted(name for name in names.values() if not name.startswith("encoder.quantizers."))
    assert groups["items"] == ["encoder.item_vectors"]
    single = ("item_weight", "idf_power", "direction_scale", "view_scale", "age", "repeated", "residual_share")
    assert groups["pooling"] == [f"encoder.{name}" for name in (*single, "source_weight.page", "source_weight.visit")]
    assert {group.name for group in model.parameter_groups() if group.decays} == {"matrices"}
    assert "readout.wide.weight" in groups["matrices"]
    assert "readout.wide.bias" in groups["rest"]


def test_only_objectives_with_a_weight_and_something_to_learn_from_are_there():
    spec = spec_of()
    model, batch = model_of(spec), random_batch(spec, 6, 30, impressions=5)
    contrastive = {"neighbour", "next_item"}
    assert set(model.losses(replace(batch, impressions=None), MOMENTS, ALL)) == contrastive
    everything = torch.ones_like(batch.impressions.validation)
    validation = replace(batch, impressions=replace(batch.impressions, validation=everything))
    assert set(model.losses(validation, MOMENTS, ALL)) == contrastive
    assert set(model.losses(validation, replace(MOMENTS, validation=True), ALL)) == {"click", "conversion"} | contrastive
    assert set(model.losses(batch, MOMENTS, ObjectiveConfig(click=0, conversion=1, neighbour=0, next_item=0))) == {"conversion"}
    assert set(model.losses(batch, MOMENTS, ObjectiveConfig(click=0, conversion=0, neighbour=1, next_item=0))) == {"neighbour"}
    silent = batch_of(spec, {source: [0, 0] for source in spec.sources}, [0, 0])
    assert model.losses(silent, MOMENTS, ALL) == {}


def test_the_seed_decides_the_weights():
    one, two, other = (UserModel(spec_of(seed=seed)).state_dict() for seed in (7, 7, 8))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["encoder.item_vectors"], other["encoder.item_vectors"])


def test_gradients_of_all_objectives_are_those_of_finite_differences():
    spec = spec_of({"purchase": {"value": "numeric"}}, dimension=4, heads=2, feed_forward=4, max_events=6)
    model, batch = model_of(spec), batch_of(spec, {"purchase": [9, 1, 4]}, [2, 1, 2])
    names = [name for name, _ in model.named_parameters() if not name.endswith(("item_vectors", "account.weight")) and "tables" not in name]
    parameters = dict(model.named_parameters())

    class Total(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self):
            return total(model.losses(batch, MOMENTS, ALL), asdict(ALL))

    def function(*values):
        moved = {f"model.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(Total(), moved, ())

    assert torch.autograd.gradcheck(function, [parameters[name] for name in names], fast_mode=True)


# Times in hours, so that the border of `recent` (28 days = 672 hours) and equal times come up.
HOURS = st.one_of(st.integers(0, 12), st.integers(660, 690))
EVENT = st.tuples(HOURS, st.integers(0, 3), st.integers(0, 2), st.integers(0, 2), st.one_of(st.just(math.nan), st.integers(-3, 3)))
SHOWN = st.tuples(HOURS, st.integers(0, 3), st.integers(0, 2), st.integers(0, 2))
USER = st.tuples(st.lists(EVENT, max_size=10), st.lists(SHOWN, max_size=3))
FACT_SPEC = spec_of({"purchase": {"account_id": "categorical", "category_id": "categorical", "value": "numeric"}}, max_events=4)


def tensor(values, dtype=torch.int64):
    return torch.tensor(list(values), dtype=dtype)


def loop_facts(events, hours, moment, item, account, category):
    """The facts of one impression, by the books."""
    seen = [event for event in events if moment - hours <= event[0] < moment][-FACT_SPEC.config.max_events :]
    recent = [event for event in seen if event[0] >= moment - RECENT_DAYS * 24]
    days = (moment - seen[-1][0]) / 24 if seen else 365
    row = [len(seen) > 0, math.log1p(len(seen)), math.log1p(len(recent)), math.log1p(days)]
    for some in (seen, recent):
        value = sum(event[4] for event in some if not math.isnan(event[4]))
        row.append(math.copysign(math.log1p(abs(value)), value))
    row += [math.log1p(sum(event[2] == account for event in seen) if account else 0)]
    row += [math.log1p(sum(event[3] == category for event in seen) if category else 0)]
    row += [math.log1p(sum(event[1] == item for event in seen) if item else 0)]
    return [float(fact) for fact in row]


@settings(max_examples=300, deadline=None)
@given(st.lists(USER, min_size=1, max_size=4), st.sampled_from([0, 200]))
def test_engagement_facts_are_those_of_a_loop(users, max_hours):
    spec = replace(FACT_SPEC, max_days_ms={"purchase": 3_600_000 * max_hours} if max_hours else {})
    users = [(sorted(events, key=lambda event: event[0]), sorted(shown, key=lambda one: one[0])) for events, shown in users]
    events, shown = ([row for user in users for row in user[part]] for part in (0, 1))
    known_at = BEGIN_MS + 3_600_000 * tensor(event[0] for event in events)
    rows = {name: tensor(event[place] for event in events) for place, name in ((1, ITEM), (2, ACCOUNT), (3, "category_id"))}
    tokens = SourceTokens(
        offsets_of(tensor(len(user[0]) for user in users)),
        known_at,
        known_at,
        rows,
        {"value": tensor((event[4] for event in events), torch.float32)},
    )
    impressions = Impressions(
        offsets=offsets_of(tensor(len(user[1]) for user in users)),
        time_ms=BEGIN_MS + 3_600_000 * tensor(one[0] for one in shown),
        rows={name: tensor(one[place] for one in shown) for place, name in ((1, ITEM), (2, ACCOUNT), (3, "category_id"))},
        numbers={},
        labels={},
        **{name: torch.zeros(len(shown)) for name in ("weight", "label_age_ms", "validation")},
    )
    counts = engagements(spec, "purchase", tokens, impressions)
    names = fact_names(spec, "purchase")
    assert list(counts) == names
    assert names[-3:] == ["same_account_id", "same_category_id", "same_item_id"]
    expected = [loop_facts(mine, max_hours or math.inf, *one) for mine, theirs in users for one in theirs]
    assert_close(on_log_scale(counts), torch.tensor(expected, dtype=torch.float64).view(-1, len(names)), 1e-6)


def test_what_item_sources_share_is_counted_over_them_together():
    spec = spec_of()
    batch = random_batch(spec, 8, 20, impressions=9)
    counted = {source: engagements(spec, source, batch.sources[source], batch.impressions) for source in spec.sources}
    found = over_item_sources(spec, counted)
    assert list(found) == shared_names(spec)
    first, second = spec.item_sources
    assert {"count", "count_recent", "days_since", "same_item_id"} <= set(found)
    assert "seen" not in found
    assert_close(found["count"], counted[first]["count"] + counted[second]["count"])
    assert_close(found["days_since"], torch.minimum(counted[first]["days_since"], counted[second]["days_since"]))
    alone = replace(spec, item_sources=(first,))
    assert over_item_sources(alone, counted) == {}, "one source says it already"


def loop_pairs(batch, sources, time_ms, until_ms):
    had, later = set(), set()
    for name in sources:
        tokens = batch.sources[name]
        for user, item, known in zip(tokens.users().tolist(), tokens.rows[ITEM].tolist(), tokens.known_at_ms.tolist(), strict=True):
            if item and known < time_ms[user]:
                had.add((user, item))
            elif item and known < until_ms[user]:
                later.add((user, item))
    return sorted(had), sorted(later - had)


@pytest.mark.parametrize("seed", range(5))
def test_item_pairs_and_neighbour_loss_are_those_of_loops(seed, monkeypatch):
    spec = spec_of()
    batch = random_batch(spec, 7, 12, seed=seed, items=8)
    batch = replace(batch, country=tensor([0, 0, 0, 1, 1, 0, 2]))  # the last user is alone in their country
    time_ms = BEGIN_MS + DAY_MS * tensor(150 + 10 * user for user in range(7))
    until_ms = time_ms + 100 * DAY_MS
    pairs = item_pairs([batch.sources[name] for name in spec.item_sources], time_ms, until_ms)
    had, later = loop_pairs(batch, spec.item_sources, time_ms.tolist(), until_ms.tolist())
    assert [sorted(map(tuple, part.T.tolist())) for part in pairs] == [had, later]

    embeddings = torch.nn.functional.normalize(torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), dim=1)
    embeddings.requires_grad_()
    means, items = [], sorted({item for _, item in had})
    for user in range(7):
        others = [other for other in range(7) if other != user and batch.country[other] == batch.country[user]]
        wanted = [item for who, item in later if who == user and item in items]
        if others and wanted:
            share = torch.softmax(torch.stack([embeddings[user] @ embeddings[other] / TEMPERATURE for other in others]), 0)
            scores = {}
            for item in items:
                votes = sum(share[place] for place, other in enumerate(others) if (other, item) in had)
                scores[item] = (
                    torch.as_tensor(votes, dtype=torch.float64) + POPULARITY * sum((other, item) in had for other in range(7)) / 7
                )
            listed = sorted((float(score.detach()) if (user, item) not in had else -1e4 for item, score in scores.items()), reverse=True)
            border = listed[min(2, len(listed) - 1)]  # LISTED is 2 here
            means.append(sum(torch.sigmoid((scores[item] - border) / SOFTNESS) for item in wanted) / len(wanted))
    monkeypatch.setattr(objectives, "LISTED", 2)
    expected, found = 1 - torch.stack(means).mean(), neighbour_loss(embeddings, batch.country, *pairs)
    assert_close(found, expected)
    assert_close(*(torch.autograd.grad(loss, embeddings)[0] for loss in (found, expected)))


def test_nobody_to_learn_from_gives_no_neighbour_loss():
    embeddings, had, later = torch.eye(3), tensor([0, 1, 2]).repeat(2, 1), torch.tensor([[0], [2]])
    assert neighbour_loss(embeddings, tensor([0, 1, 2]), had, later) is None
    assert neighbour_loss(embeddings, tensor([0, 0, 0]), had, later[:, :0]) is None
    assert neighbour_loss(embeddings, tensor([0, 1, 0]), had, later) is not None


@pytest.mark.parametrize("most", [1024, 5])
@pytest.mark.parametrize("full", [False, True])
def test_next_item_loss_is_that_of_a_loop(most, full):
    spec = spec_of()
    batch = random_batch(spec, 5, 9, items=12)
    tokens, draw = batch.sources["purchase"], torch.Generator().manual_seed(2)
    states = torch.randn(len(tokens.known_at_ms), 4, dtype=torch.float64, generator=draw)
    keys, log_frequency = torch.randn(12, 4, dtype=torch.float64, generator=draw), torch.randn(12, dtype=torch.float64, generator=draw)
    from_ms, before_ms = (torch.full((5,), BEGIN_MS + days * DAY_MS) for days in (60, 300))
    places = []
    for user in range(5):
        for place in range(int(tokens.offsets[user]) + 1, int(tokens.offsets[user + 1])):
            if from_ms[user] <= tokens.known_at_ms[place] < before_ms[user] and tokens.rows[ITEM][place] > 0:
                places.append(place)
    assert len(places) > 10
    if most < len(places):
        places = [places[int(step * (len(places) - 1) / (most - 1))] for step in range(most)]
    targets = [int(tokens.rows[ITEM][place]) for place in places]
    losses = []
    for place, target in zip(places, targets, strict=True):
        scores = {item: states[place - 1] @ keys[item] - log_frequency[item] for item in targets}
        # Every position of the batch is a candidate, but not those of the same item elsewhere.
        others = [scores[item] for item in targets if item != target]
        if full:
            scores = {item: states[place - 1] @ keys[item] for item in range(1, 12)}
            others = [score for item, score in scores.items() if item != target]
        losses.append(torch.logsumexp(torch.stack([scores[target], *others]), 0) - scores[target])
    found = next_item_loss(states, tokens, keys, log_frequency, from_ms, before_ms, most, full)
    assert_close(found, torch.stack(losses).mean())
    assert next_item_loss(states, tokens, keys, log_frequency, from_ms, before_ms - 400 * DAY_MS) is None


def test_scores_of_the_next_item_are_those_of_the_last_state():
    spec = spec_of(read_layers=(0, 2))
    model, batch = model_of(spec), random_batch(spec, 5, 9)
    scores, states = model.next_item_scores(batch, "purchase"), model.encoder.states(batch)["purchase"]
    for user, end in enumerate(batch.sources["purchase"].offsets[1:].tolist()):
        if batch.sources["purchase"].lengths[user]:
            assert_close(scores[user, 1:], model.next_item(model.encoder.item_vectors)[1:] @ states[end - 1])
    assert scores[:, 0].max() == -torch.inf


def test_facts_are_standardised_and_probabilities_calibrated():
    spec = spec_of()
    model, batch = model_of(spec), random_batch(spec, 8, 20, impressions=9)
    facts = model.readout.facts(batch)
    model.readout.fit_scale(facts)
    scaled = (facts - model.readout.fact_mean) / model.readout.fact_scale
    assert_close(scaled.mean(0), torch.zeros(facts.shape[1], dtype=torch.float64))
    varies = facts.std(0) > 1e-3
    assert_close(scaled.std(0, unbiased=False)[varies], torch.ones(int(varies.sum()), dtype=torch.float64))
    model.readout.calibration.copy_(torch.tensor([[2.0, -1.0], [0.5, 3.0]]))
    logits = torch.tensor([[0.5, -6.0]], dtype=torch.float64)
    assert_close(model.readout.probabilities(logits), torch.tensor([[0.5, 0.5]], dtype=torch.float64))


@pytest.mark.parametrize("more", [{}, {"ad_attention": 5}], ids=str)
@pytest.mark.parametrize("wanted", ["some", "those of one user", "none"])
def test_some_impressions_are_read_out_as_all_are(wanted, more):
    spec = spec_of(**more)
    model, batch = model_of(spec), random_batch(spec, 6, 12, impressions=6)
    shown, states = batch.impressions, model.encoder.states(batch)
    drawn = torch.rand(len(shown.time_ms), generator=torch.Generator().manual_seed(3)) < 0.5
    kept = {"some": drawn, "those of one user": shown.users() == shown.users()[-1], "none": torch.zeros_like(drawn)}[wanted]
    some = shown.select(kept)
    assert some.users().tolist() == shown.users()[kept].tolist()
    assert some.labels["click"].tolist() == shown.labels["click"][kept].tolist()
    assert len(some.offsets) == len(shown.offsets)
    whole = model.readout(batch, states, model.encoder)
    assert_close(model.readout(replace(batch, impressions=some), states, model.encoder), whole[kept], 1e-8)


def test_the_ad_attends_to_the_last_states_before_it():
    """By a loop over impressions and heads."""
    spec = spec_of(ad_attention=4, max_events=20)
    model, batch = model_of(spec), random_batch(spec, 5, 12, impressions=6)
    part, shown = model.readout.attention["purchase"], batch.impressions
    states, tokens, d = model.encoder.states(batch)["purchase"], batch.sources["purchase"], spec.config.dimension
    ads = torch.randn(len(shown.time_ms), d, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    users = shown.users()
    found = part(tokens, states, users, shown.time_ms, ads)
    assert spec.read_back("purchase") == 4
    for row, (user, moment) in enumerate(zip(users.tolist(), shown.time_ms.tolist(), strict=True)):
        own = range(int(tokens.offsets[user]), int(tokens.offsets[user + 1]))
        seen = [place for place in own if tokens.known_at_ms[place] < moment][-4:]
        mixed = []
        for head, at in enumerate(torch.arange(d).chunk(spec.config.heads)):
            query = part.query(part.norm(ads[row]))[at]
            by_order, by_time = (slope[head].detach().exp().log1p() for slope in (part.order_slope, part.time_slope))
            scores = []
            for back, place in zip(range(len(seen) - 1, -1, -1), seen, strict=True):
                key, hours = part.key_value(states[place])[at], (moment - int(tokens.known_at_ms[place])) / 3_600_000
                scores.append(query @ key / len(at) ** 0.5 - by_order * math.log1p(back) - by_time * math.log1p(hours))
            shares = torch.stack(scores).softmax(0) if seen else []
            values = [part.key_value(states[place])[d:][at] for place in seen]
            mixed.append(sum((share * value for share, value in zip(shares, values, strict=True)), torch.zeros(len(at))))
        assert_close(found[row], part.mixed(torch.cat(mixed).double()) if seen else part.nothing)
