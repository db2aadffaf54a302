"""Two processes make the steps that one makes, and a failing one ends the training with a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from alure_spark.batches.epochs import MemoryLoader
from alure_spark.errors import TrainingError
from alure_spark.model.user_model import UserModel
from alure_spark.training import user_training
from alure_spark.training.parallel import Share, together
from tests.conftest import ROOT, own_spark
from tests.training.small_world import BORDER, END, SPEC, TRAINING, world

STILL = replace(SPEC, config=replace(SPEC.config, dropout=0.0))  # each process would draw a dropout of its own
CONFIG = replace(TRAINING, epochs=2, item_learning_rate_share=0.5)


def trained(processes, config=CONFIG, checkpoint=None, batch=None, run_on="driver"):
    config = replace(config, processes=processes, run_on=run_on)
    loader = MemoryLoader(world() if batch is None else batch, 50, 3)  # 120 users: the last batch of 20 is smaller
    when = user_training.calendar(loader, ["view"], BORDER, END)
    return together(config, user_training.train, UserModel(STILL).double(), loader, when, config, checkpoint)


@pytest.fixture(scope="module")
def alone():
    return trained(1)


def same(one, other):
    assert one.best_epoch == other.best_epoch
    for mine, theirs in zip(one.curves, other.curves, strict=True):
        assert mine.keys() == theirs.keys() >= {"train.click", "train.neighbour", "train.next_item"}
        for name in mine:
            assert mine[name] == pytest.approx(theirs[name], abs=1e-8)
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(other.model.state_dict()[name], value, rtol=0, atol=1e-8)


def test_two_processes_are_one(spark, alone):
    both = trained(2)
    same(alone, both)
    start = UserModel(STILL).double().state_dict()
    moved = max(float((value - start[name]).abs().max()) for name, value in both.model.state_dict().items())
    assert moved > 0.05, "something was learnt"


class Killed(Exception):
    pass


@pytest.mark.slow
def test_a_training_may_go_on_with_another_number_of_processes(spark, alone, tmp_path):
    def kill(epoch, step, losses):
        if (epoch, step) == (1, 1):
            raise Killed

    loader = MemoryLoader(world(), 50, 3)
    config, when = replace(CONFIG, checkpoint_steps=2), user_training.calendar(loader, ["view"], BORDER, END)
    with pytest.raises(Killed):
        user_training.train(UserModel(STILL).double(), loader, when, config, tmp_path / "checkpoint", kill)
    assert torch.load(tmp_path / "checkpoint", weights_only=True)["state"]["epoch"] == 1
    same(alone, trained(2, config, tmp_path / "checkpoint"))


ON_EXECUTORS = """
import sys, torch
from alure_spark.config import SparkConfig
from alure_spark.session import get_session
from tests.training.test_parallel import trained
get_session(SparkConfig(master="local-cluster[2,1,1024]", shuffle_partitions=2, settings={"spark.executor.memory": "1g"}))
torch.save(trained(2, run_on="executors"), sys.argv[1])
"""


@pytest.mark.slow
def test_two_executors_are_one_process(alone, tmp_path):
    environment = own_spark(PYTHONPATH=os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
    arguments = [sys.executable, "-c", ON_EXECUTORS, str(tmp_path / "trained")]
    result = subprocess.run(arguments, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    same(alone, torch.load(tmp_path / "trained", weights_only=False))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_every_user_of_a_batch_is_of_one_process(size):
    loader = MemoryLoader(world(), 50, 3)
    whole = [batch.user_ids for batch in loader.batches(4, start=1)]
    parts = [[batch.user_ids for batch in Share(loader, rank, size).batches(4, start=1)] for rank in range(size)]
    for place, users in enumerate(whole):
        assert sorted(user for part in parts for user in part[place]) == sorted(users)
    assert np.ptp([len(part[0]) for part in parts]) <= 1


def test_a_failing_process_ends_all_with_a_sentence(spark):
    batch = world()
    broken = replace(batch, impressions=replace(batch.impressions, weight=batch.impressions.weight * float("inf")))
    with pytest.raises(TrainingError, match="one of 2 training processes failed"):
        trained(2, batch=broken)
