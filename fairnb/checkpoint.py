"""Interruption of a training: checkpoints, and the signals that stop it."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from fairnb.run.files import load_notes, load_tensors, save_tensors


@dataclass
class Course:
    """Progress of a training: all that a checkpoint holds beside the weights and Adam's moments."""

    rows: list[dict[str, float]] = field(default_factory=list)  # the finished epochs, as in `BaseModel.history`
    counts: list[Tensor] = field(default_factory=list)  # their contingency tables on validation, int64 [L, G, 2, 2]
    steps: int = 0  # done of the epoch under way
    loss: float = 0.0  # sum over its images
    training: float = 0.0  # its seconds
    waiting: float = 0.0


@torch.no_grad()
def save_checkpoint(path: Path, model: nn.Module, adam: torch.optim.Optimizer, course: Course, key: str) -> None:
    """Write the weights, Adam's moments and the course; `key` identifies the training."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in adam.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    tensors |= {"counts": torch.stack(course.counts)} if course.counts else {}
    plain = {name: value for name, value in vars(course).items() if name != "counts"}
    save_tensors(path, tensors, course=json.dumps(plain), recipe=key)


@torch.no_grad()
def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Course:
    """Restore the weights and Adam's moments in place, and return the course."""
    tensors = load_tensors(path)
    model.load_state_dict({name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")})
    parameters = list(model.parameters())
    state: dict[int, dict[str, Tensor]] = {}
    for name in [name for name in tensors if name.startswith("adam.")]:
        _, index, key = name.split(".", 2)
        own, weight = tensors[name], parameters[int(index)]  # fused Adam requires the memory layout of the weight
        own = torch.empty_like(weight).copy_(own) if own.shape == weight.shape else own
        state.setdefault(int(index), {})[key] = own
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    counts = list(tensors["counts"].clone()) if "counts" in tensors else []
    return Course(counts=counts, **json.loads(load_notes(path)["course"]))


class Requests:
    """Records SIGINT (Ctrl-C) and SIGTERM, so that the current step is finished and saved before the program ends."""

    def __init__(self) -> None:
        self.asked = False
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Requests:
        if threading.current_thread() is threading.main_thread():  # Python delivers signals to no other thread
            self.before = {kind: signal.signal(kind, self._note) for kind in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for kind, handler in self.before.items():
            signal.signal(kind, handler or signal.SIG_DFL)

    def _note(self, kind: int, _: FrameType | None) -> None:
        if self.asked and kind == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
        print("\nfinishing this step and saving; Ctrl-C once more stops at once", file=sys.stderr)


def refuse_little_room(folder: Path, model: nn.Module) -> None:
    """Raise OSError unless the disk has room for the best weights and two checkpoints, each of three times their size."""
    there = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if 7 * weights - there > (free := shutil.disk_usage(folder).free):
        raise OSError(f"{folder} has {free / 1e9:.2f} GB free; the training keeps up to {7 * weights / 1e9:.2f} GB there")
