"""The ranking model as it is used after training: towers and gates of auxiliary tasks are left out (STEM-AL; Pan et al., section 5.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .network import RankingNetwork

LINEAR_ROWS = "linear.rows.weight"  # (rows, outputs)
ROWS_PER = {"calibration": "task", "largest": "value", "most": "output"}


def served(network: RankingNetwork) -> RankingNetwork:
    """The network of the tasks that it predicts after training, whose logits are as before; itself where these are all."""
    spec = network.spec.served()
    if spec is network.spec:
        return network
    kept = places(network, spec.tasks)
    with torch.random.fork_rng(devices=[]):  # the new network's own draws are overwritten
        result = RankingNetwork(spec)
    given = network.state_dict()
    result.load_state_dict({name: _of_tasks(name, given[name], kept) for name in result.state_dict()})
    return result.train(network.training)


def per(name: str) -> str:
    """What a weight of that name has a row for each of: 'task', 'output', 'value', or '' for none; LINEAR_ROWS has a column per output."""
    return ROWS_PER.get(name, "output" if name.startswith("linear.") and name != LINEAR_ROWS else "")


def places(whole: RankingNetwork, tasks: Sequence[str]) -> dict[str, list[int]]:
    """Where some of a network's tasks stand among all of them, their outputs among its outputs, and their values among its values."""
    spec = whole.spec
    return {
        "task": [spec.tasks.index(task) for task in tasks],
        "output": [column for task in tasks for column in range(len(whole.columns))[whole.outputs[task]]],
        "value": [spec.values.index(task) for task in tasks if task in spec.values],
    }


def _of_tasks(name: str, value: Tensor, kept: Mapping[str, list[int]]) -> Tensor:
    """A weight of the tasks that stay: those that are there once per task, output or value are cut, all others are as they are."""
    if name == LINEAR_ROWS:
        return value[:, kept["output"]]
    return value[kept[per(name)]] if per(name) else value
