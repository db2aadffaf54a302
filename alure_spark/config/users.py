"""Section `users`: what is declared of a user, each value with the time from which it was known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import ConfigError, shown
from ..tables import USERS
from .names import check_attribute, one_spelling
from .section import Section
from .streams import AttributeKind

# What jobs know of a user -> its kind: user.NAME of ranking.fields too.
OF_JOBS = {"embedding": "embedding", "similarity": "numeric", "cross": "embedding"}


@dataclass(frozen=True)
class UsersConfig(Section, prefix="users."):
    """What of the table `users` is kept, for fields of the ranking model to read (reads: user.NAME)."""

    attributes: Mapping[str, AttributeKind] = field(default_factory=dict)  # name -> categorical | numeric | text | embedding

    def check_together(self) -> None:
        spelled = {name: name for name in USERS.column_names}
        for name in self.attributes:
            if name in (*USERS.column_names, *OF_JOBS):
                taken = ", ".join((*USERS.column_names, *OF_JOBS))
                raise ConfigError(f"users.attributes names {shown(name)}; allowed: another name than {taken}, which a user has already")
            check_attribute(name, "users.attributes")
            one_spelling(name, spelled, "users.attributes")
