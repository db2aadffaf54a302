"""What looks at embedding tables looks at those that a ranking model has learnt itself, not at what it has of another one."""

from __future__ import annotations

from ..errors import DataError
from ..ranking.spec import RankingSpec


def require_own_tables(spec: RankingSpec) -> None:
    """Raises DataError where all tables and experts are those of another model."""
    if not spec.plan().tables:
        of = spec.upstream.model_id if spec.upstream else "nobody"
        raise DataError(f"the ranking model has no tables of its own, only those of {of}: look at that one")
