"""The ranking model as it is used after training: towers and gates of auxiliary tasks are left out (STEM-AL; Pan et al., section 5.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from .network import RankingNetwork


def served(network: RankingNetwork) -> RankingNetwork:
    """The network of the tasks that it predicts after training, whose logits are as before; itself where these are all."""
    spec = network.spec.served()
    if spec is network.spec:
        return network
    before = network.spec
    tasks = [before.tasks.index(task) for task in spec.tasks]
    outputs = [column for task in spec.tasks for column in range(len(network.columns))[network.outputs[task]]]
    values = [before.values.index(task) for task in spec.values]
    with torch.random.fork_rng(devices=[]):  # the new network's own draws are overwritten
        result = RankingNetwork(spec)
    given = network.state_dict()
    result.load_state_dict({name: _of_tasks(name, given[name], tasks, outputs, values) for name in result.state_dict()})
    return result.train(network.training)


def _of_tasks(name: str, value: Tensor, tasks: list[int], outputs: list[int], values: list[int]) -> Tensor:
    """A weight of the tasks that stay: those that are there once per task, or per output, are cut, all others are as they are."""
    if name == "linear.rows.weight":
        return value[:, outputs]
    if name == "largest":
        return value[values]
    if name == "most" or name.startswith("linear."):
        return value[outputs]
    return value[tasks] if name == "calibration" else value
