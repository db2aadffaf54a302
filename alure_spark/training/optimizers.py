"""One step of training: losses in, moved parameters out. Gradients are summed over processes, clipped, and checked to be finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import TrainingError
from ..model.parallel import ALONE, Alone
from ..model.trainable import OptimizerKind, ParameterGroup, total
from .plan import Plan


class Optimizers:
    """The optimizers that a model's groups ask for: one per kind, each with all groups of its kind.

    The parameters of a group whose share of the learning rate is 0 get no gradient. Raises ValueError where the plan names another group.
    """

    def __init__(self, groups: Sequence[ParameterGroup], plan: Plan) -> None:
        unknown = plan.learning_rate_shares.keys() - {group.name for group in groups}
        if unknown:
            raise ValueError(f"the model has no group of parameters {', '.join(sorted(unknown))}")
        self.plan = plan
        kinds: dict[OptimizerKind, list[dict[str, Any]]] = {}
        for group in groups:
            share = plan.learning_rate_shares.get(group.name, 1.0)
            for parameter in group.parameters:
                parameter.requires_grad_(share > 0)
            if group.parameters and share > 0:
                rate, decay = plan.learning_rate * share, plan.weight_decay if group.decays else 0.0
                own = {"params": list(group.parameters), "lr": rate, "base": rate, "weight_decay": decay}
                kinds.setdefault(group.optimizer, []).append(own)
        self.each = [kind(own) for kind, own in kinds.items()]

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """All that learn."""
        return [parameter for optimizer in self.each for group in optimizer.param_groups for parameter in group["params"]]

    def schedule(self, step: int) -> None:
        """Set the learning rates of the step-th step, from 0 over all epochs."""
        for optimizer in self.each:
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * self.plan.schedule(step)

    def step(self, losses: Mapping[str, Tensor], where: str = "a step", processes: Alone = ALONE) -> dict[str, Tensor]:
        """Move the parameters against the gradient of the weighted sum; without a loss nothing moves.

        losses: this process's parts. Returns their sums over the processes, on which all of them decide alike: name -> (), no gradient.
        Raises TrainingError on a loss or gradient that is not finite; where: how its sentence calls the step.
        """
        whole = {name: processes.total(loss) for name, loss in losses.items()}
        if not whole:
            return whole
        broken = [name for name, loss in whole.items() if not loss.isfinite()]
        if broken:
            remedy = f"lower {self.plan.rate_setting} or look at the inputs"
            raise TrainingError(f"the loss of {', '.join(broken)} is not finite at {where}: {remedy}")
        for optimizer in self.each:
            optimizer.zero_grad(set_to_none=True)
        minimized = total(losses, self.plan.loss_weights)
        if minimized.requires_grad:  # else these losses are of parameters that do not learn
            minimized.backward()
        learnt = self.parameters
        _sum_gradients(learnt, processes)
        norm = _clip([parameter for parameter in learnt if parameter.grad is not None], self.plan.clip_norm)
        if not norm.isfinite():
            raise TrainingError(f"the gradient is not finite at {where}: lower {self.plan.rate_setting} or {self.plan.clip_setting}")
        for optimizer in self.each:
            optimizer.step()
        return whole

    def state_dict(self) -> dict[str, Any]:
        """As it lies in a checkpoint: 'optimizer' of the first kind, 'optimizer.1' of the second, and so on."""
        return {_key(place): optimizer.state_dict() for place, optimizer in enumerate(self.each)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """From a mapping that holds what state_dict gave, beside other things."""
        for place, optimizer in enumerate(self.each):
            optimizer.load_state_dict(saved[_key(place)])


def _key(place: int) -> str:
    return f"optimizer.{place}" if place else "optimizer"


def _clip(moved: Sequence[torch.nn.Parameter], longest: float) -> Tensor:
    """Shorten the gradients of all of them together to a norm of `longest` where they are longer; returns the norm before, ()."""
    gradients = []
    for parameter in moved:
        assert parameter.grad is not None
        if parameter.grad.is_sparse:  # of the rows that a batch touched; coalesced, each row comes once
            parameter.grad = parameter.grad.coalesce()
        gradients.append(parameter.grad.values() if parameter.grad.is_sparse else parameter.grad)
    norm = torch.nn.utils.get_total_norm(gradients)
    share = longest / (norm + 1e-6)
    if share < 1:
        for gradient in gradients:
            gradient.mul_(share)
    return norm


def _sum_gradients(learnt: Sequence[torch.nn.Parameter], processes: Alone) -> None:
    """Give each parameter the sum of its gradients over the processes.

    A parameter that no process has a gradient of is left alone, as one process alone would: zeros would let it decay.
    """
    if processes.size == 1:
        return
    moved = processes.total(torch.tensor([parameter.grad is not None for parameter in learnt]).int())
    for parameter, by_some in zip(learnt, moved.tolist(), strict=True):
        if by_some:
            parameter.grad = processes.total(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
