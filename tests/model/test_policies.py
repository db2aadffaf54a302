"""What a policy withholds from a segment (DynamiX, section 3.2): the model does as if its weights were zero, in training as in serving."""

import copy
from dataclasses import replace

import pytest
import torch

from alure_spark.batches.batch import SourceTokens, select_users
from alure_spark.batches.vocabulary import ITEM
from alure_spark.config import FeaturePolicy
from alure_spark.model.readout import fact_names, shared_names
from alure_spark.model.user_model import UserModel
from tests.model.worlds import SOURCES, WIDE, assert_close, batch_of, cut_history, gradients, random_batch, shaken, spec_of

KINDS = ("rows", "numbers", "words", "vectors")


def without(tokens, attribute):
    """As a reader leaves the tokens that has not decoded the attribute."""
    parts = {kind: {name: values for name, values in getattr(tokens, kind).items() if name != attribute} for kind in KINDS}
    return replace(tokens, **parts)


def changed(batch, source, tokens):
    return replace(batch, sources={**batch.sources, source: tokens})


def silenced(model, source, attribute):
    """The model with every weight zero that reads the attribute in a token."""
    twin = copy.deepcopy(model)
    embedding = twin.encoder.tokens[source]
    with torch.no_grad():
        for tables in (embedding.tables, embedding.texts):
            if attribute in tables:
                tables[attribute].weight.zero_()
        first = embedding.item_width
        for name, width in [(name, 2) for name in embedding.numeric] + [
            (name, embedding.widths[name] + 1) for name in embedding.embeddings
        ]:
            if name == attribute:
                embedding.project.weight[:, first : first + width] = 0
            first += width
    return twin


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(
    ("sources", "source", "attribute"),
    [(SOURCES, "purchase", "category_id"), (SOURCES, "purchase", "value"), *((WIDE, "page", name) for name in ("title", "media", "value"))],
)
def test_a_dropped_attribute_says_as_much_as_weights_of_zero(sources, source, attribute, apart):
    spec = spec_of(sources, value_encodings=not apart)
    model, batch = shaken(UserModel(spec)), random_batch(spec, 6, 30, impressions=4)
    dropped = changed(batch, source, without(batch.sources[source], attribute))
    twin = silenced(model, source, attribute)
    assert_close(model.encoder.states(dropped), twin.encoder.states(batch))
    assert_close(model.encoder.embed(dropped), twin.encoder.embed(batch))
    assert (model.encoder.states(batch)[source] - model.encoder.states(dropped)[source]).abs().max() > 1e-3


def test_facts_of_what_is_dropped_are_unknown_and_others_stay():
    spec = spec_of()
    model, batch = shaken(UserModel(spec)), random_batch(spec, 6, 30, impressions=4)
    names = [f"{source}.{name}" for source in spec.sources for name in fact_names(spec, source)] + shared_names(spec)
    whole = model.readout.facts(batch)

    def unknown(one):
        facts = model.readout.facts(one)
        assert not model.readout.standardised(facts).isnan().any()
        gone = facts[:, : len(names)].isnan()
        assert (gone.all(0) == gone.any(0)).all()
        found = [name for name, missing in zip(names, gone.all(0).tolist(), strict=True) if missing]
        kept = ~facts.isnan()
        over_sources = torch.tensor([False] * (len(names) - len(shared_names(spec))) + [True] * len(shared_names(spec)))
        kept[:, : len(names)] &= ~over_sources  # a sum over sources is of those that are left
        assert torch.equal(facts[kept], whole[kept])
        return found

    assert unknown(changed(batch, "purchase", without(batch.sources["purchase"], "value"))) == [
        "purchase.sum_value",
        "purchase.sum_value_recent",
    ]
    withheld = batch_of(spec, {source: [0] * 6 for source in spec.sources}, None).sources["purchase"]
    withheld = SourceTokens(withheld.offsets, withheld.known_at_ms, withheld.event_time_ms, {ITEM: withheld.rows[ITEM]}, {}, limit=0)
    assert unknown(changed(batch, "purchase", withheld)) == [f"purchase.{name}" for name in fact_names(spec, "purchase")]
    both = changed(changed(batch, "purchase", withheld), "ad_click", withheld)
    assert set(shared_names(spec)) <= set(unknown(both))


def test_facts_are_scaled_by_those_that_are_known():
    spec = spec_of()
    model, facts = UserModel(spec), torch.randn(40, UserModel(spec).readout.wide.in_features)
    facts[::2, 0] = torch.nan
    model.readout.fit_scale(facts)
    assert_close(model.readout.fact_mean, facts.nanmean(0), 1e-5)
    assert_close(model.readout.fact_scale[0], facts[1::2, 0].std(unbiased=False), 1e-5)
    assert model.readout.standardised(facts)[::2, 0].eq(0).all()
    facts[:, 1] = torch.nan  # nobody in the sample is of a segment that knows it: others are not blown up
    model.readout.fit_scale(facts)
    assert (model.readout.fact_mean[1], model.readout.fact_scale[1]) == (0, 1)


def test_a_withheld_source_is_one_without_events_and_exchanges_nothing():
    spec = spec_of(exchange=True, read_positions=2)
    model = shaken(UserModel(spec))
    lengths = {"purchase": [5, 0, 9], "ad_click": [4, 7, 0], "page": [3, 3, 0]}
    batch = batch_of(spec, lengths)
    none = batch_of(spec, lengths | {"ad_click": [0, 0, 0]})
    none = changed(batch, "ad_click", none.sources["ad_click"])
    empty = torch.zeros(0, dtype=torch.int64)
    withheld = SourceTokens(torch.zeros(4, dtype=torch.int64), empty, empty, {ITEM: empty}, {}, limit=0)
    assert_close(model.encoder.embed(changed(batch, "ad_click", withheld)), model.encoder.embed(none))


@pytest.mark.parametrize("last", [2, 5, 13])
@pytest.mark.parametrize(
    "more", [{}, {"frequency_encoding": True, "ad_attention": 60}, {"rotary_encoding": True, "dimension": 16}], ids=str
)
def test_fewer_events_of_a_segment_are_the_same_in_a_long_row_and_in_the_one_that_serving_holds(last, more):
    spec = spec_of(layers=2, max_events=20, **more)
    model, batch = shaken(UserModel(spec)), random_batch(spec, 5, 50, impressions=6)
    batch = changed(batch, "purchase", replace(batch.sources["purchase"], limit=last))
    shown, parts = batch.impressions, []
    copies = select_users(replace(batch, impressions=None), shown.users())
    copies = cut_history(copies, shown.time_ms, lambda source: last if source == "purchase" else 20)
    copies = changed(copies, "purchase", replace(copies.sources["purchase"], limit=last))
    alone = replace(copies, impressions=replace(shown, offsets=torch.arange(len(shown.time_ms) + 1)))
    for one in (batch, alone):
        logits = model.readout(one, model.encoder.states(one), model.encoder)
        parts.append((logits, gradients(model, logits.square().sum())))
    assert_close(parts[0], parts[1], 1e-6)
    embedded = model.encoder.embed_at(batch, model.encoder.states(batch), shown.users(), shown.time_ms)
    assert_close(embedded, model.encoder.embed(copies), 1e-8)
    unlimited = changed(batch, "purchase", replace(batch.sources["purchase"], limit=None))
    assert (model.readout(unlimited, model.encoder.states(unlimited), model.encoder) - parts[0][0]).abs().max() > 1e-3


def test_a_spec_gives_each_segment_the_layout_that_its_policy_leaves():
    policy = FeaturePolicy(sources=("purchase",), drop_attributes={"purchase": ("value",)}, max_events={"purchase": 3})
    spec = replace(spec_of(), policies={"passive": policy})
    whole = spec.layout(impressions=True)
    assert {source: set(whole.attributes(source)) for source in whole.sources} == {
        source: {*spec.of_kind(source, "categorical"), *spec.of_kind(source, "numeric")} for source in spec.sources
    }
    assert set(whole.impression_columns()) > set(spec.layout().impression_columns())
    assert spec.layout(segment="active") == spec.layout()
    passive = spec.layout(impressions=True, segment="passive")
    assert passive == whole.under(policy)
    assert passive.withheld == ("ad_click", "page")
    assert set(whole.columns()) - set(passive.columns()) == {"purchase__value"} | {
        name for name in whole.columns() if name.startswith(("ad_click__", "page__"))
    }
