"""Standalone retrieval: ads by a head on the user's vector, without a neighbour between them (LFM4Ads, model level).

Enters: user vectors, a head that makes queries of them, the frozen vectors of the ads. Leaves: for each user the ads with the largest
inner products, as rows that candidates.py adds to what the neighbours lead to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..arrow import by_value, bytes_column
from ..clock import known_before
from ..config import StandaloneConfig
from ..graph.search import neighbours
from ..tables import ORIGIN_BITS

Query = Callable[[np.ndarray], np.ndarray]  # (n, k) float32 vectors of users -> (n, d) float32
LINKS = "src_user_id string, country string, weight double, origins int, codes binary, strengths binary"


@dataclass(frozen=True)
class Standalone:
    """What is searched, by what, for whom."""

    users: DataFrame  # user_id, country, vector (k numbers): one row per user
    ads: DataFrame  # ad_id, vector (d numbers): one row per ad
    shown: DataFrame  # country, ad_id: `shown_ads`
    query: Query
    config: StandaloneConfig


@dataclass(frozen=True)
class AdVectors:
    """The vectors of V ads that may be shown, and in which country each may be."""

    places: np.ndarray  # (V,) int32 places of the ads in a list that is ascending by id; ascending
    vectors: np.ndarray  # (V, d) float32
    allowed: Mapping[str, np.ndarray]  # country -> (V,) bool: shown there before, or nowhere yet
    nowhere: np.ndarray  # (V,) bool: shown in no country yet

    def of(self, country: str) -> tuple[np.ndarray, np.ndarray]:
        """(places (W,), vectors (W, d)) of the ads that may be shown in the country."""
        kept = self.allowed.get(country, self.nowhere)
        return self.places[kept], self.vectors[kept]


def shown_ads(events: DataFrame, sources: list[str], as_of_ms: int) -> DataFrame:
    """country, ad_id, each pair once: where events of the sources, known before as_of, met an ad."""
    known = events.where(known_before(F.unix_millis("known_at"), as_of_ms) & F.col("source").isin(sources))
    return known.where("item_id IS NOT NULL").select("country", F.col("item_id").alias("ad_id")).distinct()


def standalone_links(standalone: Standalone, ads: pa.Array, own: DataFrame) -> DataFrame:
    """One row per user, shaped as LINKS: codes (int32 places in ads) and strengths (float64, weight / rank) of its best ads as bytes.

    ads: ids that may be shown, ascending; own: user_id, codes (places of the ads that the user does not get). Exact search. Collects the
    vectors of the ads and where they were shown; a worker holds 4 * d bytes per ad, and a batch of users its products.
    """
    vectors, query, config = ad_vectors(standalone, ads), standalone.query, standalone.config

    def search(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for country, rows in by_value(batch, "country"):
                yield _links(rows, *vectors.of(country), query, config)

    users = standalone.users.join(own.select("user_id", "codes"), "user_id", "left")
    return users.select("user_id", "country", "vector", "codes").mapInArrow(search, LINKS)


def ad_vectors(standalone: Standalone, ads: pa.Array) -> AdVectors:
    """The vectors of those of `ads` (ids, ascending) that have one, and where each may be shown; collects both."""
    made, shown = standalone.ads.select("ad_id", "vector").toArrow(), standalone.shown.select("country", "ad_id").toArrow()
    place = pc.index_in(made.column("ad_id").combine_chunks().cast(pa.string()), value_set=ads)
    made = made.append_column("place", place).filter(pc.is_valid(place)).sort_by("place").combine_chunks()
    places = made.column("place").to_numpy().astype(np.int32)
    ids = ads.take(pa.array(places))
    row = pc.index_in(shown.column("ad_id").combine_chunks().cast(pa.string()), value_set=ids)
    shown = shown.append_column("row", row).filter(pc.is_valid(row))
    nowhere = np.ones(len(places), bool)
    nowhere[shown.column("row").to_numpy()] = False
    allowed = {}
    for country in pc.unique(shown.column("country")).to_pylist():
        allowed[country] = nowhere.copy()
        allowed[country][shown.filter(pc.equal(shown.column("country"), country)).column("row").to_numpy()] = True
    return AdVectors(places, _matrix(made.column("vector")), allowed, nowhere)


def _matrix(vectors: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """(n, d) float32 of lists of d numbers each."""
    flat = pc.list_flatten(vectors).cast(pa.float32())
    flat = flat.combine_chunks() if isinstance(flat, pa.ChunkedArray) else flat
    return flat.to_numpy(zero_copy_only=False).reshape(len(vectors), -1 if len(vectors) else 0)


def _links(rows: pa.RecordBatch, places: np.ndarray, vectors: np.ndarray, query: Query, config: StandaloneConfig) -> pa.RecordBatch:
    """user_id, country, vector, codes of users of one country -> LINKS."""
    own = [np.frombuffer(one or b"", np.int32) for one in rows.column("codes").to_pylist()]
    row, place = best_ads(query(_matrix(rows.column("vector"))), places, vectors, own, config.candidates)
    rank = 1 + np.arange(len(row)) - np.searchsorted(row, row)
    counts = np.bincount(row, minlength=len(rows))
    columns = [
        rows.column("user_id"), rows.column("country"), pa.array(np.ones(len(rows))),
        pa.array(np.full(len(rows), ORIGIN_BITS["standalone"], np.int32)), bytes_column(place, "codes", counts),
        bytes_column(config.weight / rank, "strengths", counts),
    ]  # fmt: skip
    return pa.RecordBatch.from_arrays(columns, names=[name.split()[0] for name in LINKS.split(", ")])


def best_ads(
    queries: np.ndarray, places: np.ndarray, vectors: np.ndarray, own: list[np.ndarray], most: int
) -> tuple[np.ndarray, np.ndarray]:
    """(row, place) of the `most` ads with the largest inner product with each query, best first; equal ones (to 1e-6) by place.

    queries (n, d) and vectors (V, d) float32; places (V,) int32 ascending; own: of each query the places that it does not get.
    """
    nothing = np.zeros(0, np.int64), np.zeros(0, np.int32)
    if not len(places) or not len(queries):
        return nothing
    longest = max(len(one) for one in own)
    nearest = neighbours(queries, np.full(len(queries), None, object), vectors, places, most + longest)
    row, place = nearest.row, places[nearest.position]
    last = int(max(places[-1], max((int(one.max()) for one in own if len(one)), default=0))) + 1
    met = np.concatenate([number * last + one.astype(np.int64) for number, one in enumerate(own)])
    fresh = ~np.isin(row * last + place, met)
    row, place = row[fresh], place[fresh]
    first = np.arange(len(row)) - np.searchsorted(row, row) < most
    return row[first], place[first].astype(np.int32)
