"""Random graphs of clicks whose truth is known, as the tests of GraphSAGE need them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def clicks(users: int, items: int, communities: int, each: int, within: float, seed: int = 0) -> np.ndarray:
    """(E, 2) distinct (user, item): each user clicks `each` items, with probability `within` one of its community, else any.

    User u and item i belong to the communities u % communities and i % communities.
    """
    random = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), each)
    anything = random.integers(0, items, len(user))
    own = random.integers(0, items // communities, len(user)) * communities + user % communities
    return np.unique(np.stack([user, np.where(random.random(len(user)) < within, own, anything)], axis=1), axis=0)


def drawn_rows(pairs: np.ndarray, share: float = 0.0, seed: int = 0) -> pa.Table:
    """What training.click_graph.with_draws makes of the pairs, by numpy: ids 'u0007' and 'i0003', places by random numbers."""
    random = np.random.default_rng([seed, 1])
    place = {}
    for side in (0, 1):
        order = np.lexsort((random.random(len(pairs)), pairs[:, side]))
        of = pairs[order, side]
        place[side] = np.empty(len(pairs), np.int32)
        place[side][order] = np.arange(len(pairs)) - np.searchsorted(of, of) + 1
    held_out = (random.random(len(pairs)) < share) & (place[0] > 1) & (place[1] > 1)
    ids = [[f"{letter}{number:04d}" for number in pairs[:, side]] for side, letter in enumerate("ui")]
    return pa.table({"user_id": ids[0], "item_id": ids[1], "of_user": place[0], "of_item": place[1], "held_out": held_out})
