"""From states to the labels of the tasks: one read-out per impression, on what was known strictly before it (house rule 5).

History is encoded once per user; an impression picks the state of the last event of each source before it and adds what is
relative to the request: elapsed time, causal engagement counts and sums (the engagement frequencies of CFEE, ALURE section
2.2), how often the user met the same ad, account or attribute, and the ad itself (the ad tower).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..batches.batch import Impressions, JaggedBatch, SourceTokens
from ..batches.history import history_spans, known_ends, same_events
from ..batches.vocabulary import ACCOUNT, ITEM
from ..clock import DAY_MS, HOUR_MS
from .encodings.clock import clock_encoding
from .linear import Linear
from .named import Modules
from .spec import ModelSpec
from .tokens import embedding_table, numbers
from .user_encoder import UserEncoder

RECENT_DAYS = 28
AD_CHUNK = 1024  # impressions whose attended states are gathered at once


@dataclass(frozen=True)
class Read:
    """What the read-out has made of M impressions below the logits."""

    facts: Tensor  # (M, facts) standardised counts and context
    ad: Tensor  # (M, d) the ad tower, in the impression's context
    crosses: tuple[Tensor, ...]  # per source (M, d): key of the user's state * ad; their sums are the inner products
    hidden: Tensor  # (M, d) what the last layer reads: the penultimate layer


class Readout(nn.Module):
    """Logits of the tasks: a linear part on counts, and a network on states, ad and their products."""

    fact_mean: Tensor  # (facts,)
    fact_scale: Tensor  # (facts,)
    calibration: Tensor  # (tasks, 2)

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        d, self.spec = spec.config.dimension, spec
        self.account = embedding_table(spec.spaces.get(ACCOUNT, 1), d, 0.05)
        self.tables = Modules({name: embedding_table(spec.spaces[name], d, 0.05) for name in spec.of_impressions("categorical")})
        self.context = context = 2 * len(spec.of_impressions("numeric")) + 7  # the last of the facts: of the impression and its moment
        self.ad = Linear(spec.views * spec.item_dimension + context, d)
        width = spec.state_width
        self.keys = Modules({source: Linear(width, d) for source in spec.sources})
        self.attention = Modules({source: AdAttention(spec, source) for source in spec.sources if spec.config.ad_attention})
        facts = sum(len(fact_names(spec, source)) for source in spec.sources) + len(shared_names(spec)) + context
        self.wide = Linear(facts, len(spec.tasks))
        last = Linear(d, len(spec.tasks))
        self.deep = nn.Sequential(
            Linear(len(spec.sources) * (width + 1) + len(self.attention) * d + d + facts, d),
            nn.GELU(),
            nn.Dropout(spec.config.dropout),
            last,
        )
        for part in (self.wide, last):  # training/user_training.py starts the linear part at a logistic regression
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)
        self.register_buffer("fact_mean", torch.zeros(facts))
        self.register_buffer("fact_scale", torch.ones(facts))
        # Probabilities are made honest after training: sigmoid(scale * logit + offset), one pair per task.
        self.register_buffer("calibration", torch.tensor([[1.0, 0.0]] * len(spec.tasks)))

    def forward(self, batch: JaggedBatch, states: Mapping[str, Tensor], encoder: UserEncoder) -> Tensor:
        """(M, tasks) uncalibrated logits."""
        read = self.read(batch, states, encoder)
        logits: Tensor = self.wide(read.facts) + self.deep[-1](read.hidden)
        return logits

    def read(self, batch: JaggedBatch, states: Mapping[str, Tensor], encoder: UserEncoder) -> Read:
        """What stands below the logits."""
        shown = batch.impressions
        assert shown is not None
        users = shown.users()
        raw = self.facts(batch)
        facts = self.standardised(raw)
        context = raw[:, -self.context :]
        ad = self.ad_vectors(encoder, shown.rows, context)
        parts, crosses = [ad, facts], []
        for source in self.spec.sources:
            state = encoder.state_at(source, batch.sources[source], states[source], users, shown.time_ms)
            crosses.append(self.keys[source](state) * ad)
            parts += [state, crosses[-1].sum(-1, keepdim=True) / ad.shape[-1] ** 0.5]
            if source in self.attention:
                asking = ad + encoder.tokens[source].of_ads(shown.rows, encoder.item_vectors)  # type: ignore[operator]
                parts.append(self.attention[source](batch.sources[source], states[source], users, shown.time_ms, asking))
        return Read(facts, ad, tuple(crosses), self.deep[:-1](torch.cat(parts, dim=-1)))

    def ad_vectors(self, encoder: UserEncoder, rows: Mapping[str, Tensor], context: Tensor) -> Tensor:
        """(n, d) the ad tower: rows (n,) int64 by space as of Impressions, context (n, context) as `facts` ends."""
        item = F.embedding(rows[ITEM], encoder.item_vectors, padding_idx=0)
        ad: Tensor = self.ad(torch.cat([item, context], dim=-1)) + self.account(rows[ACCOUNT])
        for name, table in self.tables.items():
            ad = ad + table(rows[name])
        return ad

    def facts(self, batch: JaggedBatch) -> Tensor:
        """(M, facts) of the weights' dtype: per source in order of spec.sources, over the item sources together, then the context.

        NaN where a policy withholds what the fact is of.
        """
        shown, dtype = batch.impressions, self.fact_mean.dtype
        assert shown is not None
        counted = {source: engagements(self.spec, source, batch.sources[source], shown) for source in self.spec.sources}
        parts = [on_log_scale(counts).to(dtype) for counts in (*counted.values(), over_item_sources(self.spec, counted)) if counts]
        parts += [numbers(shown.numbers[name], dtype) for name in self.spec.of_impressions("numeric")]
        return torch.cat([*parts, clock_encoding(shown.time_ms, dtype)], dim=-1)

    @torch.no_grad()
    def fit_scale(self, facts: Tensor) -> None:
        """Standardise the facts by the mean and spread of these rows (n, facts), NaN left out; one that no row knows stays as it is."""
        count = (~facts.isnan()).sum(0)
        mean = facts.nansum(0) / count.clamp(min=1)
        spread = ((facts - mean).square().nansum(0) / count.clamp(min=1)).sqrt().clamp(min=1e-3)
        self.fact_mean.copy_(mean)
        self.fact_scale.copy_(torch.where(count > 0, spread, 1))

    def standardised(self, facts: Tensor) -> Tensor:
        """(M, facts) with mean 0 and spread 1; what a policy withholds is as the mean, and says nothing."""
        return torch.where(facts.isnan(), 0, (facts - self.fact_mean) / self.fact_scale)

    def probabilities(self, logits: Tensor) -> Tensor:
        """(M, tasks) calibrated probabilities."""
        return torch.sigmoid(logits * self.calibration[:, 0] + self.calibration[:, 1])


class AdAttention(nn.Module):
    """An impression's ad as a query over the states at a source's last model.ad_attention events.

    ALURE, section 2.2: "our module can also take additional context information such as ads embeddings as queries". A score falls by
    learned slopes per head with log(1 + events since) and log(1 + hours since).
    """

    def __init__(self, spec: ModelSpec, source: str) -> None:
        super().__init__()
        d, self.heads = spec.config.dimension, spec.config.heads
        self.spec, self.source = spec, source
        self.query, self.key_value, self.mixed = Linear(d, d), Linear(spec.state_width, 2 * d), Linear(d, d)
        slopes = torch.log(torch.expm1(2.0 ** -torch.arange(1, self.heads + 1).float()))
        self.order_slope, self.time_slope = nn.Parameter(slopes.clone()), nn.Parameter(slopes.clone())
        self.nothing, self.norm = nn.Parameter(torch.zeros(d)), nn.LayerNorm(d)
        with torch.no_grad():  # what an ad and an event share draws them together from the start
            self.query.weight.copy_(1.5 * torch.eye(d))
            self.key_value.weight[:d, -d:] = self.query.weight

    def forward(self, tokens: SourceTokens, states: Tensor, users: Tensor, time_ms: Tensor, ad: Tensor) -> Tensor:
        """(M, d) for the M impressions of users (M,) at time_ms (M,), asked by (M, d) of their ads; states (T, S)."""
        end, begin = known_ends(tokens, users, time_ms), tokens.offsets[users]
        if not len(states):
            return self.nothing.expand(len(users), -1)
        key_value, query = self.key_value(states), self.query(self.norm(ad))
        parts = []
        for which in torch.arange(len(users)).split(AD_CHUNK):
            inputs = key_value, query[which], tokens, begin[which], end[which], time_ms[which]
            parts.append(checkpoint(self._mixed, *inputs, use_reentrant=False) if torch.is_grad_enabled() else self._mixed(*inputs))
        return torch.cat(parts) if parts else ad

    def _mixed(self, key_value: Tensor, query: Tensor, tokens: SourceTokens, begin: Tensor, end: Tensor, time_ms: Tensor) -> Tensor:
        """(m, d) of some impressions. What it gathers is made anew on the way back, not kept."""
        place = end[:, None] - 1 - torch.arange(self.spec.read_back(self.source, tokens.limit))  # (m, n), the last one first
        there = place >= begin[:, None]
        place = place.clamp(min=0)
        k, v = (part.unflatten(2, (self.heads, -1)) for part in key_value[place].chunk(2, dim=-1))  # (m, n, heads, d / heads)
        hours = (time_ms[:, None] - tokens.known_at_ms[place]).clamp(min=0).to(query.dtype) / HOUR_MS
        scores = torch.einsum("mhw,mnhw->mhn", query.unflatten(1, (self.heads, -1)), k) / k.shape[-1] ** 0.5
        far = torch.arange(place.shape[1]).to(query.dtype).log1p()
        scores = scores - F.softplus(self.order_slope)[:, None] * far - F.softplus(self.time_slope)[:, None] * hours.log1p()[:, None]
        shares = scores.masked_fill(~there[:, None], -1e4).softmax(dim=-1)
        mixed = torch.einsum("mhn,mnhw->mhw", shares, v).flatten(1)
        return torch.where(there.any(1, keepdim=True), self.mixed(mixed), self.nothing)


def matched_spaces(spec: ModelSpec, source: str) -> list[str]:
    """What an impression and the source's events both have: the item, the account and shared categorical attributes."""
    shared = {ITEM, ACCOUNT, *spec.of_impressions("categorical")} & {ITEM, *spec.of_kind(source, "categorical")}
    return sorted(shared)


def fact_names(spec: ModelSpec, source: str) -> list[str]:
    """Names of what `engagements` counts, in its order."""
    sums = [f"sum_{name}{when}" for name in spec.of_kind(source, "numeric") for when in ("", "_recent")]
    return ["seen", "count", "count_recent", "days_since", *sums, *(f"same_{space}" for space in matched_spaces(spec, source))]


def shared_names(spec: ModelSpec) -> list[str]:
    """Names of what `over_item_sources` counts: what two or more of the item sources have, but for `seen`."""
    names = [name for source in spec.item_sources for name in fact_names(spec, source)]
    return [name for name in dict.fromkeys(names) if name != "seen" and names.count(name) > 1]


def engagements(spec: ModelSpec, source: str, tokens: SourceTokens, shown: Impressions) -> dict[str, Tensor]:
    """Name -> (M,) float64 over the source's last max_events (and max_days) known before the impression; `recent` is the last 28 days.

    days_since is that since the last event, a year where there is none; same_<space> counts the events with the impression's row. NaN
    where a policy withholds the source or the attribute.
    """
    users = shown.users()
    span = history_spans(tokens, users, shown.time_ms, spec.reach(source, tokens.limit), spec.max_days_ms.get(source))
    recent = torch.maximum(known_ends(tokens, users, shown.time_ms - RECENT_DAYS * DAY_MS), span.first)
    seen = span.counts > 0
    elapsed = torch.full((len(users),), 365.0, dtype=torch.float64)
    if seen.any():
        last = tokens.known_at_ms[(span.end - 1).clamp(min=0)]
        elapsed = torch.where(seen, (shown.time_ms - last).to(torch.float64) / DAY_MS, elapsed)
    found = {"seen": seen.double(), "count": span.counts.double(), "count_recent": (span.end - recent).double(), "days_since": elapsed}
    unknown = torch.full((len(users),), torch.nan, dtype=torch.float64)
    if tokens.withheld:
        return dict.fromkeys(fact_names(spec, source), unknown)
    for name in spec.of_kind(source, "numeric"):
        if tokens.lacks(name):
            found |= {f"sum_{name}": unknown, f"sum_{name}_recent": unknown}
            continue
        running = F.pad(tokens.numbers[name].double().nan_to_num().cumsum(0), (1, 0))
        for when, first in (("", span.first), ("_recent", recent)):
            found[f"sum_{name}{when}"] = running[span.end] - running[first]
    for space in matched_spaces(spec, source):
        same = unknown if tokens.lacks(space) else same_events(tokens, users, span, space, shown.rows[space]).counts
        found[f"same_{space}"] = same.double()
    return found


def over_item_sources(spec: ModelSpec, counted: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Name -> (M,) float64: the sums (of days_since the least) over the item sources that have it.

    A linear part cannot make the logarithm of a sum from the logarithms of its terms.
    """
    found = {}
    for name in shared_names(spec):
        terms = torch.stack([counted[source][name] for source in spec.item_sources if name in counted[source]])
        known = ~terms.isnan()
        least = torch.where(known, terms, torch.inf).amin(0)
        found[name] = torch.where(known.any(0), least if name == "days_since" else terms.nansum(0), torch.nan)
    return found


def on_log_scale(counts: Mapping[str, Tensor]) -> Tensor:
    """(M, facts) float64: signed log1p of each count and sum; `seen` stays 0 or 1."""
    return torch.stack([x if name == "seen" else x.sign() * x.abs().log1p() for name, x in counts.items()], dim=-1)
