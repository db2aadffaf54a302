"""GwPFM (Pan et al., section 4.3, equation 4): a vector of each feature for every part of the fields, a weight for every pair of groups."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from .expert import Fields


class GroupWeightedParts(nn.Module):
    """Sum over i < j of (v of i for the part of j) * (v of j for the part of i) * r of their groups.

    Exact, in the time of fields x parts x K + groups^2 x K: with S_gp the sum over the fields of group g of their vectors for part p,
    two groups give r S_g,part(h) * S_h,part(g), one group gives r (S^2 - sum of squares) / 2, for a group lies in one part.
    The paper calls the sum element-wise in one place and of scalars in another: as an expert before a layer it is element-wise here;
    scalar: the inner products summed to one number.
    """

    group_of_field: Tensor  # (fields,) int64
    part_of_field: Tensor

    def __init__(self, fields: Fields, dimension: int, scalar: bool = False) -> None:
        """dimension: of the table: parts x K. Raises ConfigError where it cannot be split, or a group lies in two parts."""
        super().__init__()
        parts, groups = fields.part_names, fields.group_names
        for group in groups:
            among = {part for part, its in zip(fields.parts, fields.groups, strict=True) if its == group}
            if len(among) > 1:
                raise ConfigError(f"the group '{group}' of ranking fields is in the parts {', '.join(sorted(among))}; allowed: one")
        if dimension % len(parts):
            raise ConfigError(f"the table of a GwPFM expert has {dimension} numbers a row; allowed: a multiple of its {len(parts)} parts")
        self.parts, self.scalar = len(parts), scalar
        self.width = 1 if scalar else dimension // len(parts)
        part_of_group = [parts.index(fields.part_of(group)) for group in groups]
        self.members = [[group for group, its in enumerate(part_of_group) if its == part] for part in range(len(parts))]
        self.register_buffer("group_of_field", torch.tensor([groups.index(group) for group in fields.groups]), persistent=False)
        self.register_buffer("part_of_field", torch.tensor([parts.index(part) for part in fields.parts]), persistent=False)
        self.strengths = nn.Parameter(torch.ones(len(groups), len(groups)))

    def forward(self, vectors: Tensor) -> Tensor:
        split = vectors.unflatten(2, (self.parts, vectors.shape[2] // self.parts))  # (n, fields, parts, K)
        strengths = (self.strengths + self.strengths.T) / 2
        groups = len(strengths)
        sums = split.new_zeros(len(split), groups, *split.shape[2:]).index_add(1, self.group_of_field, split)
        own = split[:, torch.arange(split.shape[1]), self.part_of_field]  # (n, fields, K): for the field's own part
        found = -(own**2 * strengths.diagonal()[self.group_of_field, None]).sum(dim=1) / 2
        for one, mine in enumerate(self.members):
            for other, theirs in enumerate(self.members[: one + 1]):
                met = torch.einsum("gh,nhk->ngk", strengths[mine][:, theirs], sums[:, theirs, one])
                product = (sums[:, mine, other] * met).sum(dim=1)
                found = found + (product / 2 if one == other else product)
        return found.sum(dim=1, keepdim=True) if self.scalar else found
