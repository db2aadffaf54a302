"""A network that goes on from an earlier one: old ids say what they said, new ones have rows as a new network draws them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alure_spark.ranking.growth import continued
from alure_spark.ranking.network import RankingNetwork
from alure_spark.ranking.serving import served
from tests.ranking.small_ranking import ADS, SPEC, batch

MORE = 50
LINEAR = replace(SPEC, linear=True)


def network(spec, seed=3):
    """With every weight away from where it starts."""
    torch.manual_seed(seed)
    made = RankingNetwork(spec)
    with torch.no_grad():
        for value in made.state_dict().values():
            value += 0.1 * torch.randn_like(value)
    return made.eval()


def with_more_ads(spec):
    return replace(spec, fields={**spec.fields, "ad": replace(spec.fields["ad"], settings={"size": MORE})})


def with_ad(users, row):
    shown = users.impressions
    return replace(users, impressions=replace(shown, rows=shown.rows | {"ad": torch.full_like(shown.rows["ad"], row)}))


@pytest.mark.parametrize("spec", [SPEC, LINEAR])
def test_an_impression_of_ids_that_were_known_has_the_same_logits_and_a_new_id_does_not_share_them(spec):
    earlier, drawn = network(spec), network(with_more_ads(spec), seed=4)
    today, users = continued(earlier, network(with_more_ads(spec), seed=4)), batch(9)
    torch.testing.assert_close(today(users), earlier(users), rtol=0, atol=0)
    torch.testing.assert_close(today.calibration, earlier.calibration, rtol=0, atol=0)
    ours, theirs, fresh = (one.field_rows() for one in (today, earlier, drawn))
    for table, fields in theirs.items():
        for field, rows in fields.items():
            assert torch.equal(ours[table][field][: len(rows)], rows), (table, field)
        assert torch.equal(ours[table]["ad"][ADS:], fresh[table]["ad"][ADS:]), "new rows are as they are drawn"
        assert len(ours[table]["ad"]) == MORE
    assert (today(with_ad(users, MORE - 1)) - today(with_ad(users, 1))).abs().max() > 1e-3


def test_it_does_not_touch_the_earlier_network():
    earlier = network(SPEC)
    before = {name: value.clone() for name, value in earlier.state_dict().items()}
    today = continued(earlier, network(with_more_ads(SPEC)))
    with torch.no_grad():
        for value in today.parameters():
            value.zero_()
    for name, value in earlier.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_towers_of_auxiliary_tasks_that_an_artifact_lacks_stay_as_they_are_drawn():
    spec = replace(LINEAR, scheme="stem_al", main_task="conversion")
    whole, users = network(spec), batch(9)
    earlier = served(whole)
    assert earlier.spec.tasks == ("conversion",)
    drawn, today = network(with_more_ads(spec), seed=4), continued(earlier, network(with_more_ads(spec), seed=4))
    torch.testing.assert_close(today(users)[:, 1:], earlier(users), rtol=0, atol=0)
    for name, value in drawn.towers["click"].state_dict().items():
        assert torch.equal(today.towers["click"].state_dict()[name], value)
    assert torch.equal(today.calibration[1], whole.calibration[1])
    assert torch.equal(today.calibration[0], drawn.calibration[0])
    assert torch.equal(today.linear.rows.weight[:, 0], drawn.linear.rows.weight[:, 0])


def test_what_has_become_smaller_is_refused():
    with pytest.raises(ValueError, match="a field's rows only grow"):
        continued(network(with_more_ads(SPEC)), network(SPEC))
    with pytest.raises(ValueError, match=r"were \(16, .* and are \(1, "):
        continued(network(SPEC), network(replace(SPEC, hidden=1)))
