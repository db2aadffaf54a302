"""The dials of the synthetic world: its size, its seed, and one switch per planted effect."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from ...errors import ConfigError

# What `null` turns off: every effect of preference. Delays and the skew of activity stay, they prefer nothing.
PREFERENCE_SWITCHES = frozenset(
    (
        "community_interest",
        "organic_interest",
        "dwell_law",
        "time_habits",
        "attribute_effects",
        "follow_homophily",
        "media_clusters",
        "text_topics",
    )
)
# name -> (smallest, largest) allowed value
RANGES: dict[str, tuple[float, float]] = {
    "users": (1, 99_999_999),
    "days": (1, 3660),
    "seed": (-(2**63), 2**63 - 1),
    "countries": (1, 60),
    "communities": (1, 1000),
    "categories_per_community": (1, 100),
    "items_per_category": (1, 100_000),
    "accounts_per_category": (1, 1000),
    "ads_per_account": (1, 1000),
    "events_per_user": (1, 10_000),
    "ads_per_organic": (0, 1),
    "follows_per_user": (0, 1000),
    "media_dim": (1, 64),
}


@dataclass(frozen=True)
class WorldOptions:
    """Conf `source.options`. Raises ConfigError, naming the value and what is allowed."""

    users: int = 1000
    days: int = 28
    start: str = "2025-01-06T00:00:00Z"  # a Monday; midnight UTC, so that local hours follow from utc_offset_minutes
    seed: int = 7
    countries: int = 5  # C0 has about 90 % of the users, the others share the rest as 1/k^2: one may have 1 or 0 users
    communities: int = 8
    categories_per_community: int = 3
    items_per_category: int = 40
    accounts_per_category: int = 4
    ads_per_account: int = 4
    events_per_user: float = 60.0  # mean of organic impressions over the whole period
    ads_per_organic: float = 0.5  # ad opportunities per organic impression (fewer are shown: some drawn ads are not in flight)
    follows_per_user: float = 8.0  # mean of the follows that a user makes, before reciprocal ones
    media_dim: int = 16
    truth_root: str = ""  # where a job writes the truth, beside the lake; only carried here
    null: bool = False  # the null world: PREFERENCE_SWITCHES off
    community_interest: bool = True
    organic_interest: bool = True  # off: what a user looks at says nothing of the community, which still decides how ads are met
    dwell_law: bool = True
    time_habits: bool = True
    arrival_delay: bool = True
    attribute_effects: bool = True
    follow_homophily: bool = True
    conversion_delay: bool = True
    media_clusters: bool = True
    text_topics: bool = True
    activity_skew: bool = True

    def __post_init__(self) -> None:
        for name, default in _defaults().items():
            value = getattr(self, name)
            if isinstance(default, (bool, str)):
                good = isinstance(value, type(default))
            else:  # a whole number will do for a float, True will not do for a number
                good = isinstance(value, (int, type(default))) and not isinstance(value, bool)
            if not good:
                raise ConfigError(f"source.options.{name} is {value!r}; allowed: a value of type {type(default).__name__}")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"source.options.{name} is {value!r}; allowed: {low} to {high}")
        try:
            start = self._start
        except ValueError:
            start = None
        if start is None or start.timestamp() % 86400:
            raise ConfigError(f"source.options.start is {self.start!r}; allowed: a midnight in UTC such as '2025-01-06T00:00:00Z'")

    @property
    def _start(self) -> datetime:
        moment = datetime.fromisoformat(self.start)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    @property
    def start_ms(self) -> int:
        """Epoch milliseconds of the first instant of the world."""
        return int(self._start.timestamp()) * 1000

    @property
    def start_weekday(self) -> int:
        """0 = Monday."""
        return (self.start_ms // 86_400_000 + 3) % 7  # 1970-01-01 was a Thursday

    @property
    def categories(self) -> int:
        return self.communities * self.categories_per_community

    @property
    def accounts(self) -> int:
        return self.categories * self.accounts_per_category

    @property
    def items(self) -> int:
        return self.categories * self.items_per_category

    @property
    def ads(self) -> int:
        return self.accounts * self.ads_per_account

    def on(self, switch: str) -> bool:
        """Whether that effect is planted: its switch is True and the null world does not remove it."""
        return bool(getattr(self, switch)) and not (self.null and switch in PREFERENCE_SWITCHES)


def _defaults() -> dict[str, object]:
    return {name: field.default for name, field in WorldOptions.__dataclass_fields__.items()}
