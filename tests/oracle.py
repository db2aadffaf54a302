"""Plain-Python twins of the Spark code: loops that a person can check by eye."""

from __future__ import annotations

import math

from hypothesis import Phase, given, settings

from alure_spark.tables import GRAPH_BITS


def cases_of(strategy, count: int) -> list:
    """So many hypothesis-made cases, for one frame: a Spark run per case would take minutes."""
    found: list = []

    @settings(max_examples=count, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    @given(strategy)
    def collect(case) -> None:
        found.append(case)

    collect()
    return found


def known_at(event: dict) -> int:
    return max(event["event_time"], event["arrival_time"]) if event["arrival_time"] is not None else event["event_time"]


def history(events: list[dict], user: str, source: str, moment: int) -> list[dict]:
    """What may be known of the user's stream at the moment, oldest first."""
    mine = [event for event in events if event["user_id"] == user and event["source"] == source and known_at(event) < moment]
    return sorted(mine, key=lambda event: (known_at(event), event["hash"]))


def kept(known: list[dict], stream, moment: int) -> list[dict]:
    """Of a history at the moment what the stream's limits leave."""
    fresh = [event for event in known if not stream.max_days or known_at(event) >= moment - stream.max_days_ms]
    return fresh[-stream.max_events :]


def impression_of(response: dict, shown: list[dict], skew: int = 0) -> tuple[dict | None, str]:
    """The one impression that a response belongs to, of the user's (oldest first), or None and why: early, ambiguous or none."""
    named = response["impression_id"] or None
    if named is None:
        mine = [row for row in shown if row["item_id"] == response["item_id"]]
    else:
        mine = [row for row in shown if (row["impression_id"] or row["event_id"]) == named]
        if len({row["item_id"] for row in mine}) > 1:
            mine = [row for row in mine if row["item_id"] == response["item_id"]]
            if not mine:
                return None, "ambiguous"
    before = [row for row in mine if row["event_time"] <= response["event_time"]]
    if before:
        return before[-1], "several" if named and len(before) > 1 else "one"
    if named and mine and mine[0]["event_time"] <= response["event_time"] + skew:
        return mine[0], "one"
    return None, "early" if named and mine else "none"


def labels(events: list[dict], user: str, as_of: int, windows: dict[str, int], skew: int = 0) -> list[dict]:
    """The user's impressions known before as_of in (time, hash) order, each with click and conversion."""
    shown = sorted(history(events, user, "ad_impression", as_of), key=lambda event: (event["event_time"], event["hash"]))
    result = [dict(event, ad_click=0, conversion=0) for event in shown]
    for kind, window in windows.items():
        for response in history(events, user, kind, as_of):
            row, _ = impression_of(response, result, skew)
            if row is not None and response["event_time"] - row["event_time"] <= window:
                row[kind] = 1
    return result


def candidates(
    edges: list[tuple], events: list[dict], ads: list[dict], config, as_of: int
) -> dict[str, list[tuple[str, float, str, int, int]]]:
    """user -> [(ad, score, reason, graphs, neighbours)], best first; edges (src, dst, weight, origins)."""
    active = {ad["ad_id"]: ad["account_id"] for ad in ads if ad["from"] <= as_of and (ad["to"] is None or ad["to"] > as_of)}
    active = {ad: owner for ad, owner in active.items() if ad not in config.excluded_ads and owner not in config.excluded_accounts}

    def strengths(weights: dict, key: str) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for event in events:
            if known_at(event) < as_of and event["source"] in weights and event[key] is not None:
                weight = weights[event["source"]] * 0.5 ** ((as_of - known_at(event)) / 86_400_000 / config.half_life_days)
                mine = found.setdefault(event["user_id"], {})
                mine[event[key]] = mine.get(event[key], 0) + weight
        return {
            user: dict(sorted(values.items(), key=lambda item: (-item[1], item[0]))[: config.max_engagements_per_user])
            for user, values in found.items()
        }

    by_ad, by_account = strengths(config.event_weights, "item_id"), strengths(config.account_weights, "account_id")
    met = {*config.event_weights, *config.excluded_by}
    own = {(event["user_id"], event["item_id"]) for event in events if known_at(event) < as_of and event["source"] in met}
    result: dict[str, dict[str, list]] = {}
    for src, dst, weight, origins in edges:
        mine = result.setdefault(src, {})
        if weight <= 0:
            continue
        for ad, strength in by_ad.get(dst, {}).items():
            if ad in active:
                mine.setdefault(ad, [0.0, [], 0])[0] += weight * strength
                mine[ad][1].append("ad")
                mine[ad][2] |= origins
        for account, strength in by_account.get(dst, {}).items():
            for ad in (ad for ad, owner in active.items() if owner == account):
                mine.setdefault(ad, [0.0, [], 0])[0] += weight * strength
                mine[ad][1].append("account")
                mine[ad][2] |= origins
    ranked = {}
    for user, found in result.items():
        rows = [
            (ad, score, "+".join(one for one in ("ad", "account") if one in reasons), graphs, max(map(reasons.count, reasons)))
            for ad, (score, reasons, graphs) in found.items()
            if (user, ad) not in own
        ]
        left = {GRAPH_BITS[graph]: most for graph, most in config.quota.items()}
        kept = []
        for row in sorted(rows, key=lambda row: (-row[1], row[0])):
            left[row[3]] = left.get(row[3], len(rows)) - 1
            kept += [row] if left[row[3]] >= 0 else []
        ranked[user] = kept[: config.cap]
    return ranked


def ndcg(ranked: list[str], wanted: set[str], k: int) -> float:
    gain = sum(1 / math.log2(place + 2) for place, ad in enumerate(ranked[:k]) if ad in wanted)
    return gain / sum(1 / math.log2(place + 2) for place in range(min(k, len(wanted))))
