"""Data-parallel training: what the processes of one training must tell each other.

Every process reads every global batch and works on its own users of it, so that a training may go on with another number of processes.
Each objective is the sum over a process's own rows, divided by the count over all of them; gradients are added up. So two processes
make the steps that one makes, up to the order in which numbers are added, and to dropout, which each draws for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed

from ..batches.batch import JaggedBatch, select_users
from ..batches.epochs import Batches, ChangedBatches
from ..config import TrainingConfig
from ..errors import TrainingError
from ..lake.damage import sentence
from ..model.parallel import Alone
from ..model.user_model import UserModel

T = TypeVar("T")


class Processes(Alone):
    """The processes of torch's default group."""

    def __init__(self) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()

    def total(self, value: Tensor) -> Tensor:
        summed = value.detach().clone()
        distributed.all_reduce(summed)
        return summed

    def gathered(self, rows: Tensor) -> Tensor:
        """Rows are padded to the longest part, as gather wants it; the gradient of a row comes back to the process that it is of."""
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        distributed.all_gather(sizes, torch.tensor([len(rows)]))
        longest = max(int(size) for size in sizes)
        padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])]).contiguous()
        if rows.requires_grad:
            parts = list(_Gather.apply(padded))
        else:
            parts = [torch.empty_like(padded) for _ in range(self.size)]
            distributed.all_gather(parts, padded)
        return torch.cat([part[: int(size)] for part, size in zip(parts, sizes, strict=True)])


class _Gather(torch.autograd.Function):
    """all_gather whose way back adds up what every process has to say about a row."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> tuple[Tensor, ...]:
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows)
        return tuple(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        together = torch.stack(gradients).contiguous()
        distributed.all_reduce(together)
        return together[distributed.get_rank()]


class Share(ChangedBatches):
    """Of every batch of a loader the users of this process."""

    def __init__(self, loader: Batches, rank: int, size: int) -> None:
        super().__init__(loader)
        self.rank, self.size = rank, size

    def changed(self, batch: JaggedBatch) -> JaggedBatch:
        return select_users(batch, torch.arange(self.rank, len(batch), self.size))

    def in_order(self) -> Iterator[JaggedBatch]:
        """All users, whole batches: what is evaluated is evaluated by each process alike."""
        return self.loader.in_order()


def together(config: TrainingConfig, work: Callable[..., T], model: UserModel, loader: Batches, *arguments: Any, **options: Any) -> T:
    """work(model, loader, *arguments, **options) in config.processes; what the first one returned. work: train or refit of user_training.

    Spark's TorchDistributor starts them: on this machine, or each as a task of the cluster (config.run_on), whose machines must all see
    the folder of the packed rows and of the checkpoint. Raises TrainingError where one fails.
    """
    count, here = config.processes, config.run_on == "driver"
    if count == 1 and here:
        return work(model, loader, *arguments, **options)
    from pyspark.ml.torch.distributor import TorchDistributor

    try:
        distributor = TorchDistributor(num_processes=count, local_mode=here, use_gpu=False)
        result = distributor.run(_joined, work, model, loader, arguments, options)
    except Exception as error:  # a RuntimeError here, a failed Spark job on executors
        where = "above" if here else "above and in the logs of the executors, which must all reach lake.scratch"
        raise TrainingError(f"one of {count} training processes failed ({sentence(error)}); its output is {where}") from error
    return cast(T, result)


def _joined(work: Callable[..., T], model: UserModel, loader: Batches, arguments: tuple[Any, ...], options: dict[str, Any]) -> T:
    distributed.init_process_group("gloo")
    try:
        processes = Processes()
        return work(model, Share(loader, processes.rank, processes.size), *arguments, **options, processes=processes)
    finally:
        distributed.destroy_process_group()
