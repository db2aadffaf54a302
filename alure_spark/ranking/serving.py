"""The ranking model as it is used after training: towers and gates of auxiliary tasks are left out (STEM-AL; Pan et al., section 5.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from .network import RankingNetwork

LINEAR_ROWS = "linear.rows.weight"  # (rows, tasks)


def served(network: RankingNetwork) -> RankingNetwork:
    """The network of the tasks that it predicts after training, whose logits are as before; itself where these are all."""
    spec = network.spec.served()
    if spec is network.spec:
        return network
    columns = [network.spec.tasks.index(task) for task in spec.tasks]
    with torch.random.fork_rng(devices=[]):  # the new network's own draws are overwritten
        result = RankingNetwork(spec)
    given = network.state_dict()
    result.load_state_dict({name: _of_tasks(name, given[name], columns) for name in result.state_dict()})
    return result.train(network.training)


def is_per_task(name: str) -> bool:
    """Whether a weight of that name has a row per task; LINEAR_ROWS has a column per task."""
    return name == "calibration" or (name.startswith("linear.") and name != LINEAR_ROWS)


def _of_tasks(name: str, value: Tensor, columns: list[int]) -> Tensor:
    """A weight of the tasks that stay: those that are there once per task are cut, all others are as they are."""
    if name == LINEAR_ROWS:
        return value[:, columns]
    return value[columns] if is_per_task(name) else value
