"""A task whose label is a number: 0 with one probability, else lognormal (ZILN; Wang, Liu and Miao 2019, arXiv 1912.07753, section 3.1).

Enters: what a tower says of such a task, three numbers of each impression: the logit of p = P(value > 0), the mean mu of the log of a
value above 0, and a number whose softplus makes its deviation sigma. Leaves: the loss of a label, and the expected value
p * exp(mu + sigma^2 / 2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

OUTPUTS = 3  # of a tower per value task: logit, mu, and what sigma is made of
SMALLEST_DEVIATION = 0.1  # of a log: where a value is always the same, its likelihood has no bound
LARGEST_DEVIATION = 10.0
LARGEST_LOG = 57.0  # of an expected value, about 6e24: float32 holds its square root of sums
HALF_LOG_2PI = math.log(2 * math.pi) / 2


def deviation(raw: Tensor) -> Tensor:
    """sigma of the third output, of its shape: above SMALLEST_DEVIATION, at most LARGEST_DEVIATION."""
    return (SMALLEST_DEVIATION + F.softplus(raw)).clamp(max=LARGEST_DEVIATION)


def raw_of(sigma: float) -> float:
    """The third output whose `deviation` is sigma, or the nearest that can be."""
    above = min(max(sigma, 1.01 * SMALLEST_DEVIATION), LARGEST_DEVIATION) - SMALLEST_DEVIATION
    return above + math.log(-math.expm1(-above))  # the inverse of softplus


def log_expected(outputs: Tensor) -> Tensor:
    """(M,) log of the expected value; outputs (M, OUTPUTS)."""
    logit, mu, raw = outputs.unbind(1)
    return F.logsigmoid(logit) + mu + deviation(raw) ** 2 / 2


def expected(outputs: Tensor, largest: float | Tensor) -> Tensor:
    """(M,) expected values of outputs (M, OUTPUTS), at most `largest`: beyond it nothing was seen, and exp runs away."""
    return log_expected(outputs).clamp(max=LARGEST_LOG).exp().clamp(max=largest)


def negative_log_likelihood(outputs: Tensor, labels: Tensor) -> Tensor:
    """(M,) nats: cross entropy of whether the value is above 0, and of one that is the lognormal density (eq. 5 of the paper).

    outputs (M, OUTPUTS); labels (M,), numbers of at least 0.
    """
    logit, mu, raw = outputs.unbind(1)
    above, sigma = labels > 0, deviation(raw)
    logs = torch.where(above, labels, 1).log()
    density = logs + sigma.log() + HALF_LOG_2PI + ((logs - mu) / sigma) ** 2 / 2
    return F.binary_cross_entropy_with_logits(logit, above.to(logit.dtype), reduction="none") + torch.where(above, density, 0)
