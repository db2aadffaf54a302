"""A small network that predicts a click or a conversion from columns of numbers.

Why here: ALURE's user embedding is worth what it adds to a model that ranks (section 4), so there is one that takes it as further
columns; the ranking model is compared with it, too. Enters: features (n, F) of impressions. Leaves: probabilities.
training/small_network.py fits it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import DataError
from .trainable import ParameterGroup


class SmallNetwork(nn.Module):
    """logit = linear(x) + output(relu(hidden(x))), x = (features - centre) * scale.

    The linear part is there because with few rows most of what can be learned is linear. centre and scale (F,) are buffers: they
    travel with the weights.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, centre: Tensor, scale: Tensor, hidden: int = 32) -> None:
        super().__init__()
        self.register_buffer("centre", centre)
        self.register_buffer("scale", scale)
        self.linear = nn.Linear(len(centre), 1)
        self.hidden = nn.Linear(len(centre), hidden)
        self.output = nn.Linear(hidden, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(n,) float32 logits of features (n, F) float32."""
        x = (features - self.centre) * self.scale
        return (self.linear(x) + self.output(torch.relu(self.hidden(x)))).squeeze(1)

    def losses(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The mean cross entropy, nats, of labels (n,) float32 0 or 1."""
        return {"entropy": F.binary_cross_entropy_with_logits(self(features), labels)}

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("all", list(self.parameters()))]

    @torch.no_grad()
    def predict(self, features: np.ndarray) -> np.ndarray:
        """(n,) float64 probabilities of features (n, F). Raises DataError when a feature is not finite or F is another."""
        if features.ndim != 2 or features.shape[1] != len(self.centre):
            raise DataError(f"features are {features.shape}; this model was fitted on (n, {len(self.centre)})")
        return torch.sigmoid(self(feature_tensor(features)).double()).numpy()


def feature_tensor(features: np.ndarray) -> Tensor:
    """(n, F) float32. Raises DataError when a feature is not finite."""
    tensor = torch.as_tensor(np.asarray(features, np.float32))
    if not torch.isfinite(tensor).all():
        raise DataError("a feature is NaN or infinite: fill it before ranking")
    return tensor
