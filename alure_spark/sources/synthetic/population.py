"""Who and what is in the world: users, ads, items as Column functions of their index.

Every draw is a hash of (seed, purpose, ids, counter), so a row does not depend on the partition that makes it, and
what is true of a user or an ad is computed where it is needed: no join, no table to keep. Indices are BIGINT columns
from 0. A category c belongs to community c mod `communities`; an account a to category a mod `categories`; an ad d to
account d mod `accounts`; an item i to category i mod `categories`: one can draw "an item of this category" by arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from .options import WorldOptions

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
SURFACES = ("feed", "reels", "stories", "marketplace")
MEDIA_TYPES = ("image", "video", "carousel")
POSITIONS = 10
UTC_OFFSET_MINUTES = (0, 60, 330, -300, 540, 120, -480)  # of country C0, C1, ...; repeated after the last
HABIT_PEAK_HOUR = {"morning": 8.5, "evening": 20.5}
ACTIVE_SHARE = 0.7  # of users whose conversions follow their dwell
MAX_ACTIVITY = 10.0  # times the mean: bounds the events of one user

# The ad-impression attributes: number of values, and the standard deviation of the effect on the log-odds of a click and
# of a conversion. The effect of value j of n is linear in j and symmetric about 0. Drawn per impression: position, surface.
# ad_age_bucket follows from the ad and the time; all others belong to the ad. semantic_id_1 has one value per category.
ATTRIBUTES: dict[str, tuple[int, float]] = {
    "media_type": (len(MEDIA_TYPES), 0.45),
    "position": (POSITIONS, -0.40),
    "ad_format": (5, 0.30),
    "surface": (len(SURFACES), 0.20),
    "semantic_id_1": (0, 0.20),
    "theme": (6, 0.12),
    "semantic_id_2": (4, 0.10),
    "ad_age_bucket": (4, -0.08),
    "bid_bucket": (4, 0.0),
    "creative_size": (5, 0.0),
    "semantic_id_3": (8, 0.0),
}
PER_IMPRESSION = ("position", "surface")


def uniform(options: WorldOptions, purpose: str, *keys: Column) -> Column:
    """DOUBLE strictly between 0 and 1, a function of the seed, the purpose and the keys alone."""
    # 52 bits and a half: every value is exact, 0 and 1 are out of reach
    return (F.shiftrightunsigned(_hash(options, purpose, *keys), 12) + 0.5) / float(2**52)


def normal(options: WorldOptions, purpose: str, *keys: Column) -> Column:
    """Standard normal DOUBLE (Box-Muller on the two halves of one hash; |value| < 6.8)."""
    hashed = _hash(options, purpose, *keys)
    radius = (F.shiftrightunsigned(hashed, 32) + 0.5) / float(2**32)
    angle = hashed.bitwiseAND(F.lit(2**32 - 1)) * F.lit(2 * math.pi / 2**32)
    return F.sqrt(-2.0 * F.log(radius)) * F.cos(angle)


def _hash(options: WorldOptions, purpose: str, *keys: Column) -> Column:
    return F.xxhash64(F.lit(options.seed).cast("bigint"), F.lit(purpose), *(key.cast("bigint") for key in keys))


def index(count: int, draw: Column) -> Column:
    """BIGINT in 0 .. count-1 from a draw in (0, 1)."""
    return F.least(F.floor(draw * float(count)), F.lit(count - 1).cast("bigint"))


def pick(values: Sequence[object], at: Column) -> Column:
    """The value at that index, counted from 0."""
    return F.element_at(F.array(*(F.lit(value) for value in values)), (at + 1).cast("int"))


def identifier(letter: str, at: Column) -> Column:
    """Raw id of an index: u00000123."""
    return F.concat(F.lit(letter), F.lpad(at.cast("string"), 8, "0"))


def parsed(letter: str, raw: Column, count: int) -> Column:
    """Index of a raw id, or null where the world has no such id."""
    at = F.when(raw.rlike(f"^{letter}[0-9]{{8}}$"), F.substring(raw, 2, 8).cast("bigint"))
    return F.when(at < count, at)


def attach(frame: DataFrame, prefix: str, columns: Mapping[str, Column]) -> tuple[DataFrame, dict[str, Column]]:
    """The frame with the columns under prefixed names, and references to them, so that each is computed once."""
    frame = frame.withColumns({prefix + name: column for name, column in columns.items()})
    return frame, {name: F.col(prefix + name) for name in columns}


def user_columns(options: WorldOptions, user: Column) -> dict[str, Column]:
    """What is true of a user, by name; `user` is the index."""
    shares = [0.9 if k == 0 else 0.1 / k**2 for k in range(options.countries)]
    bounds = [sum(shares[: k + 1]) / sum(shares) for k in range(options.countries - 1)]
    draw = uniform(options, "country", user)
    country = F.lit(0)
    for bound in bounds:
        country = country + (draw >= bound).cast("int")
    offset = F.lit(0)
    for k in range(1, options.countries):
        offset = F.when(country == k, F.lit(UTC_OFFSET_MINUTES[k % len(UTC_OFFSET_MINUTES)])).otherwise(offset)
    community = F.pmod(user + _rotation(options, F.floor(user / options.communities)), F.lit(options.communities))
    favourite = index(options.categories_per_community, uniform(options, "favourite", user))
    active = uniform(options, "active", user) < ACTIVE_SHARE
    slope = F.when(active, F.exp(0.25 * normal(options, "slope", user))).otherwise(F.lit(0.0))
    # lognormal of mean 1: a few users make much of the traffic
    skew = F.least(F.exp(normal(options, "activity", user) - 0.5), F.lit(MAX_ACTIVITY))
    return {
        "country": F.concat(F.lit("C"), country.cast("string")),
        "utc_offset_minutes": offset,
        "community": community,
        "favourite": community + options.communities * favourite,
        "habit": F.when(uniform(options, "habit", user) < 0.5, F.lit("morning")).otherwise(F.lit("evening")),
        "active": active if options.on("dwell_law") else F.lit(False),
        "slope": slope if options.on("dwell_law") else F.lit(0.0),
        "propensity": 0.3 * normal(options, "propensity", user),
        "organic_mean": float(options.events_per_user) * (skew if options.on("activity_skew") else F.lit(1.0)),
    }


def _rotation(options: WorldOptions, block: Column) -> Column:
    return index(options.communities, uniform(options, "rotation", block))


def member(options: WorldOptions, community: Column, block: Column) -> Column:
    """Index of the user of that community in block `block` of `communities` consecutive users; may be >= users in the last block."""
    place = F.pmod(community - _rotation(options, block), F.lit(options.communities))
    return block * options.communities + place


def ad_columns(options: WorldOptions, ad: Column) -> dict[str, Column]:
    """What is true of an ad, by name; `ad` is the index. Attributes are value indices."""
    account = F.pmod(ad, F.lit(options.accounts))
    category = F.pmod(account, F.lit(options.categories))
    bid = normal(options, "ad/bid", ad)
    flight, edge = uniform(options, "ad/flight", ad), uniform(options, "ad/edge", ad)
    period = options.days * DAY_MS
    # 15 % of the ads start late, 15 % end early, the others run before, through and after the whole period
    late = options.start_ms + F.floor(edge * F.lit(0.6 * period))
    always = options.start_ms - F.floor((edge * 19.0 + 1.0) * float(DAY_MS))
    early = options.start_ms + F.floor((edge * 0.6 + 0.4) * float(period))
    bucket = F.lit(0)
    for bound in (-0.674, 0.0, 0.674):  # quartiles of the normal
        bucket = bucket + (bid > bound).cast("int")
    own = ("media_type", "ad_format", "theme", "creative_size")
    return {
        "account": account,
        "category": category,
        "community": F.pmod(category, F.lit(options.communities)),
        "quality": 0.4 * normal(options, "ad/quality", ad),
        "bid": F.round(0.4 * F.exp(0.5 * bid), 3),
        "value": F.round(20.0 * F.exp(0.6 * normal(options, "ad/value", ad)), 2),
        "active_from_ms": F.when(flight < 0.15, late).otherwise(always),
        "active_to_ms": F.when(flight > 0.85, early),
        "bid_bucket": bucket,
        **{name: index(ATTRIBUTES[name][0], uniform(options, f"ad/{name}", ad)) for name in own},
        **semantic_ids(options, "ad", ad, category),
    }


def semantic_ids(options: WorldOptions, kind: str, at: Column, category: Column) -> dict[str, Column]:
    """Cluster codes of a medium, coarse to fine: its category, a cluster within it, and a code that means nothing."""
    codes = {name: index(ATTRIBUTES[name][0], uniform(options, f"{kind}/{name}", at)) for name in ("semantic_id_2", "semantic_id_3")}
    coarse = category if options.on("media_clusters") else index(options.categories, uniform(options, f"{kind}/semantic_id_1", at))
    return {"semantic_id_1": coarse, **codes}


def media_embedding(options: WorldOptions, kind: str, at: Column, codes: Mapping[str, Column]) -> Column:
    """ARRAY<FLOAT> of media_dim numbers: centre of the coarse code + 0.5 centre of the fine code + 0.5 noise of the medium."""

    def number(place: Column) -> Column:
        noise = normal(options, f"{kind}/media", at, place)
        if not options.on("media_clusters"):
            return noise.cast("float")
        coarse = normal(options, "media/coarse", codes["semantic_id_1"], place)
        fine = normal(options, "media/fine", codes["semantic_id_1"], codes["semantic_id_2"], place)
        return (coarse + 0.5 * (fine + noise)).cast("float")

    return F.transform(F.sequence(F.lit(0), F.lit(options.media_dim - 1)), number)


def words(options: WorldOptions, purpose: str, category: Column, *keys: Column) -> Column:
    """STRING of six words: mostly of the category's twenty topic words, the others of sixty that anybody uses."""

    def word(place: Column) -> Column:
        draw = uniform(options, f"{purpose}/word", *keys, place)
        topic = F.concat(F.lit("topic"), category.cast("string"), F.lit("word"), index(20, draw).cast("string"))
        common = F.concat(F.lit("word"), index(60, draw).cast("string"))
        if not options.on("text_topics"):
            return common
        return F.when(uniform(options, f"{purpose}/topic", *keys, place) < 0.7, topic).otherwise(common)

    return F.concat_ws(" ", F.transform(F.sequence(F.lit(0), F.lit(5)), word))
