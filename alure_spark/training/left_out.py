"""Which impressions a user model has not learnt from (transfer.upstream: others), as it says itself, and whether that is what is asked for.

A model that is not promoted by its gate, or that goes on from an earlier one, may have seen what the conf wants it not to see.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import Config
from ..errors import ConfigError, shown

LEFT_OUT = "left_out"  # fact of a user model: the condition of the impressions that it has not learnt from


def left_out(config: Config) -> str:
    """The condition of the impressions that the user model does not learn from; '' where it learns from all."""
    if config.transfer.upstream == "all":
        return ""
    return " OR ".join(sorted(f"({its.where or 'true'})" for its in config.transfer.downstream.values()))


def require_left_out(model_id: str, facts: Mapping[str, Any], config: Config, remedy: str) -> None:
    """Raises ConfigError where a user model has learnt from impressions that it should not have seen. facts: what it says of itself."""
    if (wanted := left_out(config)) and facts.get(LEFT_OUT) != wanted:
        told = f"all but those of {shown(facts[LEFT_OUT])}" if facts.get(LEFT_OUT) else "all impressions"
        raise ConfigError(f"transfer.upstream is others, but user model {model_id} has learnt from {told}: {remedy}")
