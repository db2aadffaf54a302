"""What the conf means for the spec: groups and parts where nobody says them."""

from __future__ import annotations

from dataclasses import replace

from alure_spark.config import Config, build
from alure_spark.ranking.network import RankingNetwork
from alure_spark.training.ranking_start import draft_spec

STREAMS = {"ad_impression": {"attributes": {"slot": "categorical"}}, "ad_click": {"attributes": {"account_id": "categorical"}}}


def spec(**fields):
    return draft_spec(build(Config, {"streams": STREAMS, "labels": {"impression_attributes": ["slot"]}, "ranking": {"fields": fields}}))


def test_by_default_a_group_is_an_origin_and_there_are_two_parts():
    fields = spec(
        ad={"reads": "impression.ad_id", "encoding": "id"},
        bid={"reads": "ad.bid", "encoding": "numeral_systems"},
        hour={"reads": "context.hour", "encoding": "numeral_systems"},
        clicks={"reads": "history.ad_click.count", "encoding": "numeral_systems"},
    ).fields
    assert {name: (one.group, one.part) for name, one in fields.items()} == {
        "ad": ("impression", "ad"), "bid": ("ad", "ad"), "hour": ("context", "user"), "clicks": ("history", "user"),
    }  # fmt: skip


def test_the_fields_of_a_group_are_in_one_part():
    fields = spec(
        ad={"reads": "impression.ad_id", "encoding": "id", "group": "mine"},
        hour={"reads": "context.hour", "encoding": "numeral_systems", "group": "mine"},
        slot={"reads": "impression.slot", "encoding": "id", "group": "slot", "part": "user"},
    ).fields
    assert [one.part for one in fields.values()] == ["ad", "ad", "user"]


def test_the_default_tables_and_experts_fit_fields_of_every_origin():

    draft = spec(
        ad={"reads": "impression.ad_id", "encoding": "id"},
        category={"reads": "ad.category_id", "encoding": "id"},
        where={"reads": "context.country", "encoding": "id"},
    )
    RankingNetwork(replace(draft, fields={name: replace(one, settings={"size": 3}) for name, one in draft.fields.items()}))
