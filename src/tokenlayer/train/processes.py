"""One process or several: sums, wrapped networks and whole tensors, the same for the engine.

One process needs nothing but torch. Several are started by accelerate's launcher (`accelerate launch`), which says in
the environment how many there are and whether networks are copied (DDP) or sharded (FSDP2).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from tokenlayer.core.errors import MissingExtra
from tokenlayer.train.objective import Shard


class Processes:
    """The processes that train together.

    Args:
        device: where networks stand; with several processes each has a device of its own.

    Raises:
        MissingExtra: a launcher started several processes, and accelerate is not installed.
    """

    def __init__(self, device: torch.device) -> None:
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        self._accelerator = _accelerator(device) if several else None
        found = self._accelerator
        self.shard = Shard() if found is None else Shard(found.process_index, found.num_processes)
        self.device = device if found is None else found.device

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of each parameter (FSDP2)."""
        return self._accelerator is not None and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"

    @property
    def main(self) -> bool:
        """Whether this one writes files."""
        return self.shard.rank == 0

    def split(self, module: nn.Module) -> None:
        """FSDP2: leaves each process its part of the first one's parameters, as new objects. Else nothing."""
        if not self.sharded:
            return
        import torch.distributed as dist
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        for tensor in [*module.parameters(), *module.buffers()]:
            dist.broadcast(tensor.data, 0)
        mesh = init_device_mesh(self.device.type, (self.shard.ranks,))
        for blocks in [one for one in module.modules() if isinstance(one, nn.ModuleList)]:
            for block in blocks:
                fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh)

    def wrapped(self, module: nn.Module) -> nn.Module:
        """DDP: the network with gradients that are averaged over processes; else the network itself."""
        if self._accelerator is None or self.sharded:
            return module
        made: nn.Module = self._accelerator.prepare_model(module)
        return made

    def apart(self, module: nn.Module) -> AbstractContextManager[None]:
        """While open, gradients are added up in each process and not yet exchanged."""
        if self._accelerator is None:
            return nullcontext()
        if self.sharded:
            return _unsynced(module)
        context: AbstractContextManager[None] = module.no_sync()  # type: ignore[operator]
        return context

    def sums(self, numbers: Sequence[float]) -> list[float]:
        """Each number added up over processes."""
        return self._reduced(numbers, "SUM")

    def largest(self, numbers: Sequence[float]) -> list[float]:
        """The largest of each number over processes."""
        return self._reduced(numbers, "MAX")

    def _reduced(self, numbers: Sequence[float], operation: str) -> list[float]:
        if self.shard.ranks == 1:
            return list(numbers)
        import torch.distributed as dist

        held = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(held, op=getattr(dist.ReduceOp, operation))
        found: list[float] = held.tolist()
        return found

    def wait(self) -> None:
        """Returns when all processes are here."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()


def is_main() -> bool:
    """Whether this process is the only one or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def whole(tensor: Tensor) -> Tensor:
    """The tensor with the parts of all processes, which all must ask for it."""
    gather: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def put(tensor: Tensor, value: Tensor) -> None:
    """Copies a whole value into a tensor of which this process may hold a part."""
    with torch.no_grad():
        tensor.copy_(like(tensor, value))


def like(tensor: Tensor, value: Tensor) -> Tensor:
    """A whole value on the device of a tensor, and in parts where it is in parts."""
    here = value.to(tensor.device)
    mesh = getattr(tensor, "device_mesh", None)
    if mesh is None or here.shape != tensor.shape:
        return here
    from torch.distributed.tensor import distribute_tensor

    made: Tensor = distribute_tensor(here, mesh, tensor.placements)  # type: ignore[attr-defined]
    return made


def _accelerator(device: torch.device) -> Any:
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise MissingExtra("accelerate", "train", "training in several processes") from error
    return Accelerator(cpu=device.type == "cpu", mixed_precision="no")


@contextmanager
def _unsynced(module: Any) -> Iterator[None]:
    module.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        module.set_requires_gradient_sync(True)
