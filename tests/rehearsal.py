"""A GPU rehearsed where there is none.

    with Rehearsal() as gpu:
        x = torch.rand(3, 4).to("cuda")      # a FakeTensor, its values beside it
        x @ torch.rand(4, 2)                 # FakeTensorDeviceMismatchError, as a GPU refuses it
        float(x.sum())                       # the value, and one more entry in gpu.waits: the host waited for the device

What lies on "cuda" is a FakeTensor: PyTorch itself checks devices and shapes, and branches on the device as it would. The
values are computed beside it on the CPU, so that code which reads them goes on and its results can be compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorDeviceMismatchError,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

aten = torch.ops.aten
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
COPIES = {aten._to_copy.default, aten.copy_.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
FILLING = {aten.fill_.Tensor, aten.fill.Tensor}
ENGINE = torch.autograd.graph._engine_run_backward
# What torch.cuda says of the device.
TOLD: dict[str, Any] = {
    "is_available": True, "is_initialized": True, "device_count": 1, "current_device": 0, "get_device_capability": (9, 0),
    "get_device_name": "a rehearsed GPU", "is_bf16_supported": True, "max_memory_allocated": 0, "set_device": None,
    "synchronize": None, "_lazy_init": None, "manual_seed_all": None,
}  # fmt: skip


class Generator(torch.Generator):
    """A generator that says it is on the device it was asked for, and draws on the CPU."""

    place: torch.device

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls, CPU)  # type: ignore[call-arg]
        made.place = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.place


class Rehearsal(TorchDispatchMode):
    """Makes "cuda" a device on which all can be tried but speed and memory; `waits` counts what made the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.fake, self.waits, self.in_backward = FakeTensorMode(allow_non_fake_inputs=True), Counter[str](), False
        self.nodes: Any = WeakIdKeyDictionary()  # of autograd, by parameter
        self.stack = ExitStack()

    def __enter__(self) -> Rehearsal:
        patches: dict[str, Any] = {f"torch.cuda.{name}": lambda *_, told=told, **__: told for name, told in TOLD.items()}
        patches |= {
            "torch.Generator": Generator,
            "torch.cuda.get_rng_state": lambda *_: torch.get_rng_state(),
            "torch.cuda.set_rng_state": lambda state, *_: torch.set_rng_state(state),
            "torch.nn.Module._apply": lambda *given: self._apply(*given),
            "torch._subclasses.fake_tensor.FakeTensor.__deepcopy__": lambda *given: self._deepcopy(*given),
            "torch.Tensor.pin_memory": lambda self, *_: self,
            "torch.autograd._engine_run_backward": self._run_backward,
            "torch.autograd.graph._engine_run_backward": self._run_backward,
            "torch.backends.cudnn.flags": lambda **_: nullcontext(),
            "torch._subclasses.fake_tensor.FakeTensorMode.avoid_device_init": True,
            "torch._subclasses.fake_tensor.init_gpu_context": lambda _: None,
        }
        self.stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # the CPU has no kernels of that name
        for name, instead in patches.items():
            self.stack.enter_context(patch(name, instead))
        self.stack.enter_context(self.fake)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.stack.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return self._device_for_cpp(args[0])
        if self.in_backward and kwargs.get("device") == CPU:  # zeros for a gradient that nothing asked for
            kwargs = kwargs | {"device": CUDA}
        given = tree_leaves((args, kwargs))
        if not any(isinstance(one, FakeTensor) or (isinstance(one, torch.device) and one.type == "cuda") for one in given):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        scalars = [one for one in given if isinstance(one, Tensor) and one.device == CPU and one.dim() == 0]
        if scalars and not (
            torch.Tag.pointwise in func.tags or func in COPIES | INDEXING | FILLING
        ):  # FakeTensor lets these pass
            raise FakeTensorDeviceMismatchError(func, CUDA, CPU)
        asks_host = False
        try:  # first what PyTorch refuses, then the values
            found = func(*args, **{name: None if name == "generator" else one for name, one in kwargs.items()})
        except (DataDependentOutputException, DynamicOutputShapeException):
            asks_host = True
        with unset_fake_temporarily():
            value = func(*tree_map(_value, args), **tree_map(_value, kwargs))
        if asks_host:
            self.waits[str(func)] += 1
            return tree_map(_on_cuda, value)
        if func in COPIES and _waits_for_copy(func, args, kwargs, found):
            self.waits[f"{func} between devices"] += 1
        if func in INDEXING and any(
            isinstance(one, Tensor) and (one.dtype == torch.bool or one.device == CPU) for one in args[1]
        ):
            self.waits[f"{func} by truth values, or by indices of the host"] += 1
        if isinstance(found, FakeTensor) and not found.is_cuda:
            return value
        recorded = (
            torch.is_grad_enabled()
            and func is not aten.detach.default
            and any(isinstance(one, Tensor) and one.requires_grad for one in given)
        )
        for one, beside in zip(tree_leaves(found), tree_leaves(value), strict=True):
            if isinstance(one, FakeTensor):
                one.value, one.enters_graph = beside, recorded  # type: ignore[attr-defined]
        return found

    def _device_for_cpp(self, tensor: Any) -> torch.device:
        """What PyTorch's C++ is told: its autograd, which asks a GPU's driver for streams, hears that all is on the CPU.

        Autograd asks when a leaf is first used, when an operation's output enters its graph, and in the backward pass.
        """
        new_leaf = torch.is_grad_enabled() and tensor.requires_grad and tensor.is_leaf and tensor not in self.nodes
        enters, tensor.enters_graph = getattr(tensor, "enters_graph", False), False
        return CPU if self.in_backward or new_leaf or enters else tensor.fake_device

    def _run_backward(self, tensors: Any, *args: Any, **kwargs: Any) -> Any:
        self.in_backward = any(isinstance(one, FakeTensor) for one in tensors)
        try:
            return ENGINE(tensors, *args, **kwargs)
        finally:
            self.in_backward = False

    def _apply(self, module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """Move or convert a module. PyTorch's own exchanges a FakeTensor's memory, and fails where anything refers to it."""
        for part in module.modules():
            for name, one in part._parameters.items():
                moved: Any = None if one is None else change(one.detach())
                if one is not None and not (moved.device == one.device == CUDA and moved.dtype == one.dtype):
                    part._parameters[name] = self._parameter(moved, one.requires_grad)
            part._buffers.update({name: one if one is None else change(one) for name, one in part._buffers.items()})
        return module

    def _deepcopy(self, one: Tensor, memo: dict[int, Any]) -> Tensor:
        copied = one.detach().clone()
        return memo.setdefault(
            id(one), self._parameter(copied, one.requires_grad) if isinstance(one, nn.Parameter) else copied
        )

    def _parameter(self, value: Tensor, requires_grad: bool) -> nn.Parameter:
        """A parameter whose node in autograd's graph is kept, so that autograd asks for its device here and never again."""
        made = nn.Parameter(value, requires_grad)
        if isinstance(made, FakeTensor) and requires_grad:
            self.nodes[made] = torch.autograd.graph.get_gradient_edge(made).node
        return made


def _value(one: Any) -> Any:
    """What stands for an argument on the CPU."""
    if isinstance(one, torch.device):
        return CPU
    return one.value if isinstance(one, FakeTensor) else one  # type: ignore[attr-defined]


def _on_cuda(value: Any) -> Any:
    """A value whose shape only the host knows."""
    if not isinstance(value, Tensor):
        return value
    found: Any = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=CUDA)
    found.value = value
    return found


def _waits_for_copy(func: Any, args: Any, kwargs: Any, found: Tensor) -> bool:
    """Whether the host waits for a copy: always for one from the GPU, and for one to it unless it need not block."""
    if func is aten.copy_.default:
        source, not_blocking = args[1], len(args) > 2 and args[2]
    else:
        source, not_blocking = args[0], kwargs.get("non_blocking")
    return found.device != source.device and not (not_blocking and found.is_cuda)
