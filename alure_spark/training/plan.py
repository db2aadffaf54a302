"""How a model is trained: for how long, at which learning rates, and when it stops. What a model does not need stays at its default."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Schedule = Callable[[int], float]  # steps made so far, over all epochs -> share of the learning rate


def constant(step: int) -> float:
    return 1.0


def warmup_cosine(steps: int) -> Schedule:
    """Up over the first twentieth of so many steps, then down a cosine to a tenth."""
    warm = max(1, steps // 20)

    def share(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    return share


@dataclass(frozen=True)
class Plan:
    """What the loop is told about a training beside the model and its batches."""

    epochs: int  # at most
    learning_rate: float
    seed: int  # of all that a step draws, e.g. dropout
    weight_decay: float = 0.0  # of the groups that decay
    learning_rate_shares: Mapping[str, float] = field(default_factory=dict)  # group -> share of the rate; 0: it does not learn
    loss_weights: Mapping[str, float] = field(default_factory=dict)  # loss -> weight in the sum; 1 where it is not named
    schedule: Schedule = constant
    clip_norm: float = math.inf  # of the gradient of all groups together
    patience: float = math.inf  # epochs without a better validation loss before training stops
    checkpoint_steps: int = 20  # steps of an epoch between checkpoints; there is one after each epoch as well
    # What an error asks for, in the words of whoever set the plan: what to lower, what no batch of an epoch had.
    rate_setting: str = "the learning rate"
    clip_setting: str = "the norm at which gradients are clipped"
    needed: str = "none of its batches has an example that a loss could learn from"
