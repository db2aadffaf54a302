"""Section `graph`: which user graphs are built, and how (ALURE, sections 3 and 5.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, TypeAlias

from ..tables import GRAPH_BITS
from .rules import OFF_OR_MORE, Largest, NonNegativeFloat, OneOf, PositiveFloat, PositiveInt, Range, ShareBelowOne, require
from .section import Section

GRAPHS = tuple(GRAPH_BITS)  # user graphs: by embeddings, by follows, by personalized PageRank over follows
GraphName = Annotated[str, OneOf(GRAPHS)]
Weight = Annotated[NonNegativeFloat, Largest(1_000_000)]
Blend: TypeAlias = Mapping[GraphName, Weight]  # graph -> what it counts in the blend


@dataclass(frozen=True)
class FollowConfig(Section, prefix="graph.follow."):
    """Who is near whom by follows (ALURE, section 5.2: BFF)."""

    half_life_days: PositiveFloat = 365.0  # a follow counts half after so many days
    most_followees: PositiveInt = 1000  # the strongest follows of a user that count
    hub_followers: PositiveInt = 1000  # sharing a followee with more followers than that says nothing (and makes too many pairs)
    direct: Weight = 0.5  # what following somebody adds to what the two share
    mutual: Weight = 0.5  # what being followed back adds


@dataclass(frozen=True)
class PageRankConfig(Section, prefix="graph.pagerank."):
    """Personalized PageRank by truncated push (graph/pagerank.py)."""

    restart: ShareBelowOne = 0.15  # probability that a walk ends at a node
    least_share: Annotated[float, Range("above 0, at most 1", above=0, most=1)] = (
        5e-5  # a smaller share of the walk is not followed further
    )
    steps: PositiveInt = 20  # nor is any share for more steps


@dataclass(frozen=True)
class GraphConfig(Section, prefix="graph."):
    """User similarity graph (ALURE, section 3); names as in the paper."""

    graphs: tuple[str, ...] = ("alure",)  # which are built; several are blended into one
    blend: Blend = field(default_factory=lambda: dict.fromkeys(GRAPHS, 1.0))
    blend_by_country: Mapping[str, Blend] = field(default_factory=dict)  # where that differs
    blend_by_lift: bool = True  # these times how much better than chance each graph's last edges foretold the engagements since
    follow: FollowConfig = field(default_factory=FollowConfig)
    pagerank: PageRankConfig = field(default_factory=PageRankConfig)

    k1: PositiveInt = 400  # clusters per country, at most users / users_per_cluster
    users_per_cluster: PositiveInt = 50
    k1_probed: PositiveInt = 50  # k1': nearest clusters that a user searches
    k2: Annotated[PositiveInt, Largest(1_000_000)] = 15  # neighbours per user
    search: Annotated[str, OneOf(("auto", "exact", "probed"))] = "auto"  # auto: the cheaper method of the two
    min_similarity: Annotated[float, Range("-1 to 1", least=-1, most=1)] = -1.0  # edges of a lower cosine are left out
    mutual: bool = False  # only edges whose reverse is an edge too
    # Most users that one user may be the neighbour of, the most similar ones; 0: any number.
    hub_cap: Annotated[int, Range("0 (any number) or more", least=0)] = 0
    excluded_users: tuple[str, ...] = ()  # have no neighbours and are nobody's, in any graph
    compare_roads: bool = False  # run both search methods and log their cost and agreement
    kmeans_iterations: PositiveInt = 20
    kmeans_tolerance: NonNegativeFloat = 1e-4  # the loop ends when the mean similarity of users to their centroids rises by no more
    kmeans_warm_start: bool = True  # go on from the centroids of the last as_of before, where they fit better than new seeds
    kmeans_points_per_cluster: PositiveInt = 256  # centroids are fitted on at most so many users per cluster
    recall_queries: Annotated[int, OFF_OR_MORE] = 200  # users per country whose neighbours are checked against exact search
    recall_floor: Annotated[float, Range("0 to 1", least=0, most=1)] = 0.0  # a lower recall in any country refuses to publish
    seed: PositiveInt = 7

    def check_together(self) -> None:
        require(bool(self.graphs) and set(self.graphs) <= set(GRAPHS), "graph.graphs", self.graphs, f"some of {', '.join(GRAPHS)}")

    @property
    def retrieved(self) -> str:
        """The graph that ads are retrieved through."""
        return "blend" if len(self.graphs) > 1 else self.graphs[0]
