"""Any torch classifier: the features before its last `Linear` layer, taken with a hook, and a copy with other heads."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from fairnb.run.messages import some
from fairnb.yours.sample import Sample

BESIDE = ("labels", "group", "person", "image")  # what a batch may hold beside the module's own arguments


def last_linear(module: nn.Module, batch: Any) -> str:
    """Name of the `Linear` layer whose output is the module's, or its logits before a sigmoid.

    ValueError, with the layers that ran last, if there is none.
    """
    if isinstance(module, nn.DataParallel):
        raise ValueError("DataParallel runs copies of a module: give the one inside, module.module")
    outputs: list[tuple[str, nn.Module, Any]] = []
    names = {part: name for name, part in module.named_modules()}
    leaves = [part for part in names if not list(part.children())]
    hooks = [part.register_forward_hook(lambda part, _, out: outputs.append((names[part], part, out))) for part in leaves]
    try:
        found = _logits(_run(module, batch)[0])
    finally:
        for hook in hooks:
            hook.remove()
    for name, part, out in reversed(outputs):
        if not isinstance(part, nn.Linear) or out.shape != found.shape or out.dim() != 2:
            continue
        if torch.equal(out, found) or torch.allclose(out.sigmoid(), found):
            return name
    ran = [f"{name} ({type(part).__name__})" for name, part, _ in outputs[-3:]]
    raise ValueError(
        f"{type(module).__name__} does not end in a Linear layer whose outputs are its logits; its last layers are "
        f"{', '.join(ran)}: give features and a head instead"
    )


def head_of(layer: nn.Linear) -> Tensor:
    """A layer's weights, then its biases (0 if it has none): float32 [L, D + 1] on the CPU."""
    bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach().cpu()
    return torch.cat([layer.weight.detach().cpu(), bias.unsqueeze(1)], dim=1).float()


def with_head(module: nn.Module, name: str, head: Tensor) -> nn.Module:
    """A copy of the module whose layer of this name has the weights and biases [L, D + 1]."""
    changed = copy.deepcopy(module)
    layer = cast(nn.Linear, changed.get_submodule(name))  # it may have other names too
    head = head.to(layer.weight)  # rounded, where the module computes in fewer bits
    layer.weight, layer.bias = nn.Parameter(head[:, :-1].clone()), nn.Parameter(head[:, -1].clone())
    return changed


def sample_of(module: nn.Module, loader: Iterable[Any], name: str, **about: Any) -> Sample:
    """Run the module over batches, and take what its layer of this name reads.

    A batch is (images, labels, group), perhaps with person and the images' names behind, or a dictionary with `labels`,
    `group`, and perhaps `person` and `image` beside the module's own arguments. `about` goes to `Sample`.
    """
    parts: dict[str, list[Any]] = {"features": []}

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        parts["features"].append(inputs[0].detach().float().cpu())

    hook = module.get_submodule(name).register_forward_pre_hook(keep)
    try:
        for batch in loader:
            for what, values in _run(module, batch)[1].items():
                parts.setdefault(what, []).append(values.cpu() if isinstance(values, Tensor) else np.asarray(values))
    finally:
        hook.remove()
    if not parts["features"]:
        raise ValueError("the loader gives no batches")
    whole: dict[str, Any] = {
        what: torch.cat(of) if isinstance(of[0], Tensor) else np.concatenate(of) for what, of in parts.items()
    }
    truth = whole.pop("labels")
    return Sample(truth, whole.pop("group"), **whole, **about)


def _run(module: nn.Module, batch: Any) -> tuple[Any, dict[str, Any]]:
    """The module's output for a batch, in evaluation mode, and what the batch holds beside its arguments."""
    device = next((part.device for part in module.parameters()), torch.device("cpu"))
    if isinstance(batch, Mapping):
        beside = {name: batch[name] for name in BESIDE if name in batch}
        inputs = {name: of.to(device) for name, of in batch.items() if name not in BESIDE and isinstance(of, Tensor)}
        arguments: tuple[Any, ...] = ()
    else:
        beside, inputs = dict(zip(BESIDE, batch[1:], strict=False)), {}
        arguments = (batch[0].to(device),)
    if missing := {"labels", "group"} - set(beside):
        raise ValueError(
            f"a batch lacks {some(sorted(missing))}: it is (images, labels, group) or a dictionary with these names"
        )
    with _evaluating(module), torch.no_grad():
        return module(*arguments, **inputs), beside


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _logits(output: Any) -> Tensor:
    """The logits of a module's output: a tensor, or an object, dictionary or tuple that holds them."""
    if isinstance(output, Mapping):
        output = output.get("logits")
    output = getattr(output, "logits", output)
    found = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(found, Tensor):
        raise ValueError(f"the module gives {type(found).__name__}, no logits")
    return found
