"""Which ads the neighbours of a block of users lead to: the arithmetic of the retrieval, on numpy arrays, without Spark.

A user has some 15 neighbours with some ten engagements each, and accounts lead to several ads: hundreds of (user, ad) pairs of which
a few dozen are distinct. As rows of Spark that is what retrieval costs; here they are sorted keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..config import RetrievalConfig
from ..lake import UNITS
from ..tables import ORIGIN_BITS

AD, ACCOUNT, STANDALONE = 1, 2, 4  # kinds of engagement, and what no neighbour led to; bits of a candidate's reason
REASONS = pa.array(
    [None, *("ad", "account", "ad+account"), *("standalone", "ad+standalone", "account+standalone", "ad+account+standalone")]
)


@dataclass(frozen=True)
class AdIndex:
    """Ads that may be shown: A ads, ordered by id, of B accounts. A target's code: an ad's place, or A + its account's place."""

    ads: pa.Array  # (A,) string, ascending
    accounts: pa.Array  # (B,) string, ascending
    account: np.ndarray  # (A,) int64 place of the ad's account
    led_to: np.ndarray  # ads of account 0, then of account 1, ..: those that an engagement with the account leads to
    starts: np.ndarray  # (B + 1,) where each account's begin

    @classmethod
    def of(cls, ads: pa.Array, accounts: pa.Array, led_to: np.ndarray) -> AdIndex:
        """ads, accounts (A,): every ad once with its account; led_to (A,) bool."""
        order = pc.sort_indices(ads)
        ads, accounts, led_to = ads.take(order), accounts.take(order), led_to[order.to_numpy()]
        distinct = pc.unique(accounts)
        distinct = distinct.take(pc.sort_indices(distinct))
        account = pc.index_in(accounts, value_set=distinct).to_numpy(zero_copy_only=False).astype(np.int64)
        led = np.flatnonzero(led_to)
        led = led[np.argsort(account[led], kind="stable")]
        counts = np.bincount(account[led], minlength=len(distinct))
        return cls(ads, distinct, account, led, np.r_[0, np.cumsum(counts)])

    def codes(self, kinds: np.ndarray, targets: pa.Array) -> np.ndarray:
        """(M,) int32 codes of targets of kind AD or ACCOUNT; -1 where it leads to no ad."""
        as_ad, as_account = (
            pc.fill_null(pc.index_in(targets, value_set=known), -1).to_numpy(zero_copy_only=False) for known in (self.ads, self.accounts)
        )
        return np.where(kinds == AD, as_ad, np.where(as_account < 0, -1, as_account + len(self.ads))).astype(np.int32)


@dataclass(frozen=True)
class Candidates:
    """M candidates, ordered by user, best first."""

    user: np.ndarray
    ad: np.ndarray  # place in AdIndex.ads
    units: np.ndarray  # score in billionths
    graphs: np.ndarray
    neighbours: np.ndarray
    kinds: np.ndarray  # bits AD, ACCOUNT and STANDALONE


def score(
    user: np.ndarray, weight: np.ndarray, origins: np.ndarray, code: np.ndarray, engagement: np.ndarray, own_user: np.ndarray,
    own_ad: np.ndarray, index: AdIndex, config: RetrievalConfig,
) -> Candidates:  # fmt: skip
    """The candidates of a block of users.

    One row per edge and engagement of its neighbour (M,): user, weight of the edge (above 0), origins, code of the target, engagement.
    What the standalone search gives a user comes in the same way, with its own bit as origins: no neighbour is counted for it.
    own_user, own_ad: ads that a user does not get. Sums are of whole billionths: the same in any order.
    """
    ads = len(index.ads)
    targets = ads + len(index.accounts)
    known = code >= 0
    user, weight, origins, code, engagement = (values[known] for values in (user, weight, origins, code, engagement))
    units = np.floor(weight * engagement * UNITS + 0.5).astype(np.int64)

    # 1. every user and target: through how many neighbours, and how strongly
    order, starts = _groups(user.astype(np.int64) * targets + code)
    neighbours = _reduce(np.add, (origins[order] != ORIGIN_BITS["standalone"]).astype(np.int64), starts)
    units, graphs = _reduce(np.add, units[order], starts), _reduce(np.bitwise_or, origins[order], starts)
    user, code = user[order][starts], code[order][starts].astype(np.int64)

    # 2. every target: the ads that it leads to
    of_account = code >= ads
    account = np.where(of_account, code - ads, 0)
    counts = np.where(of_account, index.starts[account + 1] - index.starts[account], 1)
    met = np.repeat(np.arange(len(code)), counts)
    nth = np.arange(len(met)) - np.repeat(np.cumsum(counts) - counts, counts)
    led = of_account[met]
    ad = code[met]
    ad[led] = index.led_to[index.starts[account[met[led]]] + nth[led]]

    key = user[met].astype(np.int64) * ads + ad
    order, starts = _groups(key)
    met, key = met[order], key[order][starts]
    kinds = _reduce(np.bitwise_or, np.where(led[order], ACCOUNT, np.where(neighbours[met] > 0, AD, 0)), starts)
    units, graphs = _reduce(np.add, units[met], starts), _reduce(np.bitwise_or, graphs[met], starts)
    neighbours = _reduce(np.maximum, neighbours[met], starts)
    kinds = kinds | np.where(graphs & ORIGIN_BITS["standalone"], STANDALONE, 0)

    # 3. without what the user has met, the best first
    fresh = ~np.isin(key, own_user.astype(np.int64) * ads + own_ad)
    user, ad = np.divmod(key, max(1, ads))
    best = np.flatnonzero(fresh)[np.lexsort((ad[fresh], -units[fresh], user[fresh]))]
    for origin, most in config.quota.items():
        alone = graphs[best] == ORIGIN_BITS[origin]
        beyond = np.flatnonzero(alone)[_places(user[best][alone]) >= most]
        best = np.delete(best, beyond)
    best = best[_places(user[best]) < config.cap]
    return Candidates(*(values[best] for values in (user, ad, units, graphs, neighbours, kinds)))


def _groups(key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An order in which equal keys are neighbours, and where each begins."""
    order = np.argsort(key, kind="stable")
    return order, np.flatnonzero(np.diff(key[order], prepend=-1))


def _reduce(function: np.ufunc, values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return function.reduceat(values, starts) if len(values) else values


def _places(user: np.ndarray) -> np.ndarray:
    """0, 1, .. within each user; equal users lie together, ascending."""
    return np.arange(len(user)) - np.searchsorted(user, user)
