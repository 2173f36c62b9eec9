"""The device: one, or one for each of several processes that train together through Lightning Fabric."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from lightning_fabric import Fabric  # slow to import


def resolve(device: str = "auto", precision: str = "auto") -> tuple[str, str]:
    """Device and precision that 'auto' stands for on this machine; ValueError if it lacks the device or the precision."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "auto": True, "cpu": True}
    if not present.get(device):
        raise ValueError(f"device {device!r} is not on this machine: choose 'cpu', or 'auto' for the best there is")
    if device == "auto":
        device = next((name for name in ("cuda", "mps") if present[name]), "cpu")
    if precision == "auto":
        on_gpu = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        on_cpu = device == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
        precision = "bf16-mixed" if on_gpu or on_cpu else "32-true"
    if (device, precision) == ("cuda", "bf16-mixed") and not torch.cuda.is_bf16_supported():
        raise ValueError(
            f"precision={precision!r} is beyond this GPU, {torch.cuda.get_device_name()}: choose '32-true', or 'auto'"
        )
    return device, precision


def make_fabric(device: str = "auto", precision: str = "auto") -> Fabric:
    """Fabric on one device; errors as in `resolve`."""
    from lightning_fabric import Fabric

    device, precision = resolve(device, precision)
    return Fabric(accelerator=device, devices=1, precision=precision)  # type: ignore[arg-type]


def join_group(device: str = "auto", precision: str = "auto", devices: int = 1, num_nodes: int = 1) -> Fabric:
    """Fabric as one of `devices * num_nodes` processes with one device each, which share every batch (DDP).

    Under `torchrun` or `fabric run` this process joins their group. Otherwise this function starts the machine's other
    processes, each with this one's command line: for programs, not for notebooks. A group that this machine cannot form, or
    that contradicts the launcher's, raises ValueError.
    """
    from lightning_fabric import Fabric

    device, precision = resolve(device, precision)
    if "LOCAL_WORLD_SIZE" in os.environ:  # set by torchrun, which `fabric run` calls too
        nodes = int(os.environ["WORLD_SIZE"]) // (here := int(os.environ["LOCAL_WORLD_SIZE"]))
        if (devices, num_nodes) not in ((1, 1), (here, nodes)):
            raise ValueError(
                f"devices={devices} and num_nodes={num_nodes}, but {here} processes were started on each of {nodes} "
                "machines: leave the two parameters out where torchrun or fabric run starts the processes"
            )
        devices, num_nodes = here, nodes
    there = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device, devices)
    if devices > there:
        raise ValueError(f"devices={devices}, but this machine has {there} for device {device!r}")
    if devices * num_nodes == 1:
        return make_fabric(device, precision)
    if os.environ.get("LT_CLI_USED") == "1":  # `fabric run` holds the other settings and has launched
        return Fabric(precision=precision)  # type: ignore[arg-type]
    fabric = Fabric(accelerator=device, devices=devices, num_nodes=num_nodes, strategy="ddp", precision=precision)  # type: ignore[arg-type]
    fabric.launch()
    return fabric
