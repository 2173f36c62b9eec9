"""The network of the paper's section 3: a torchvision backbone whose last layer is replaced by two fully connected ones.

He et al., "Deep residual learning for image recognition", CVPR 2016; weights from Russakovsky et al., ImageNet, 2015.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import pandas as pd
import torch
from torch import Tensor, nn

from fairnb.run.messages import unknown

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

AUXILIARY = ("googlenet", "inception_v3")  # two old architectures, with auxiliary classifiers for training from scratch


class MultiLabelNet(nn.Module):
    """backbone → FC(→hidden) → ReLU → dropout → FC(→labels)."""

    def __init__(
        self, backbone: nn.Module, features: int, hidden: int, labels: int, dropout: float, domains: int = 1
    ) -> None:
        super().__init__()
        self.backbone = backbone  # images float [B, 3, H, W] → pooled features [B, F]
        self.hidden = nn.Linear(features, hidden)  # F → D
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, domains * labels)  # D → L, which the searches move; D → G·L with G domains
        self.domains = domains  # G where each group has its own part of the last layer, else 1

    def forward(self, images: Tensor, domain: Tensor | None = None) -> Tensor:
        """Logits [B, L] of images float [B, 3, H, W] in a `domain`, int64 [B], or mean over domains."""
        logits = self.head(self.dropout(self.penultimate(images)))
        if self.domains == 1:
            return logits
        logits = logits.unflatten(1, (self.domains, -1))  # [B, G, L]
        return logits.mean(1) if domain is None else logits[torch.arange(len(images), device=images.device), domain]

    def merged(self) -> MultiLabelNet:
        """The network with one domain: itself, or a copy whose last layer is the mean over domains."""
        if self.domains == 1:
            return self
        one = copy.deepcopy(self)
        weights = self.heads.unflatten(0, (self.domains, -1)).mean(0)
        one.head, one.domains = nn.Linear(self.head.in_features, len(weights), device=weights.device), 1
        one.replace_heads(weights)
        return one

    def penultimate(self, images: Tensor) -> Tensor:
        """Penultimate features [B, D] ≥ 0, the input of the last layer."""
        return self.hidden(self.pooled(images)).relu()

    def pooled(self, images: Tensor) -> Tensor:
        """Pooled features [B, F], the input of the first fully connected layer."""
        return self.backbone(images)

    @property
    def heads(self) -> Tensor:
        """A copy of the last layer, float32 [L, D + 1]: each label's weights, then its bias."""
        return torch.cat([self.head.weight, self.head.bias.unsqueeze(1)], dim=1).detach()

    @torch.no_grad()
    def replace_heads(self, heads: Tensor, hidden: Tensor | None = None) -> None:
        """Set the last layer to float32 [L, D + 1], and `hidden` if given, [D, F + 1]; another shape raises ValueError."""
        for layer, weights, name in ((self.head, heads, "heads"), (self.hidden, hidden, "hidden weights")):
            if weights is None:
                continue
            if weights.shape != (wanted := (layer.out_features, layer.in_features + 1)):
                raise ValueError(f"{name} of shape {tuple(weights.shape)} do not fit a layer of shape {wanted}")
            layer.weight.copy_(weights[:, :-1])
            layer.bias.copy_(weights[:, -1])


@dataclass(frozen=True, eq=False)
class BaseModel:
    """A trained network and its history."""

    model: MultiLabelNet  # at its best epoch, in evaluation mode, on the device of the training
    # per epoch: epoch, loss, val_loss, val_map, val_accuracy, val_uei, best, images_per_second, and seconds of training
    # (waiting included), waiting, validating, saving
    history: pd.DataFrame
    us: pd.DataFrame  # per epoch, label and group of validation: epoch, label, group, n, positives, predicted_positives, us

    @property
    def heads(self) -> Tensor:
        """The last layer, float32 [L, D + 1] on the CPU: where every search starts."""
        return self.model.heads.cpu()

    @property
    def best_epoch(self) -> int:
        """The epoch that was kept, from 1."""
        return int(self.history.epoch[self.history.best].iloc[0])

    @property
    def seconds(self) -> float:
        """Duration of the training, all its sessions together."""
        return float(self.history[["training", "validating", "saving"]].to_numpy().sum())


def build_model(
    backbone: str, labels: int, hidden: int = 2048, dropout: float = 0.5, weights: str | None = None, *, seed: int = 0,
    domains: int = 1,
) -> MultiLabelNet:  # fmt: skip
    """Build the network: a torchvision `backbone` and fresh layers, of `hidden` = D outputs (the paper's 2048) and `labels`.

    `weights` names torchvision's (`IMAGENET1K_V1`), None draws random ones from `seed`; `domains` counts the parts of the
    last layer, one per group. An unknown name, or a size or probability out of range, raises ValueError; weights that are
    neither on disk nor can be fetched raise FileNotFoundError.
    """
    wanted = known_weights(backbone, weights or "")
    if labels < 1 or hidden < 1 or not 0 <= dropout < 1:
        raise ValueError(f"labels={labels} and hidden={hidden} must be positive, dropout={dropout} in [0, 1)")
    with torch.random.fork_rng(devices=[]):  # nn's initialisers draw from the global generator: leave it unchanged
        torch.default_generator.manual_seed(seed)
        network = _load(backbone, wanted)
        return MultiLabelNet(network, _remove_classifier(network), hidden, labels, dropout, domains)


def known_weights(backbone: str, weights: str) -> WeightsEnum | None:
    """torchvision's weights of this name, None for ''; an unknown backbone or name raises ValueError."""
    import torchvision  # slow to import

    if backbone not in (names := torchvision.models.list_models(module=torchvision.models)):
        raise ValueError(unknown("backbone", backbone, names))
    known = torchvision.models.get_model_weights(backbone).__members__
    if weights and weights not in known:
        raise ValueError(unknown(f"weights of {backbone}", weights, known))
    return known[weights] if weights else None


def _load(backbone: str, weights: WeightsEnum | None) -> nn.Module:
    import torchvision

    # They warn without an explicit choice.
    extra = {"aux_logits": weights is not None, "init_weights": True} if backbone in AUXILIARY else {}
    try:
        network = torchvision.models.get_model(backbone, weights=weights, **extra)
    except (URLError, OSError) as error:
        name, folder = Path(weights.url).name if weights else "", Path(torch.hub.get_dir()) / "checkpoints"
        raise FileNotFoundError(
            f"{weights} of {backbone} is not on disk and cannot be fetched ({error}):\n"
            f"put the file {name} into {folder}, or choose weights='' to train from scratch"
        ) from error
    if extra:  # auxiliary classifiers would return a tuple
        network.aux_logits = False
        for name in {"aux1", "aux2", "AuxLogits"} & dict(network.named_children()).keys():
            setattr(network, name, None)
    return network


def classifier_of(network: nn.Module) -> str:
    """Name of a torchvision network's last layer, which classifies: fully connected, or SqueezeNet's 1×1 convolution."""
    return [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]


def arguments_of(backbone: str, weights: str = "") -> dict[str, Any]:
    """Arguments with which torchvision's `get_model` builds a network like `build_model`'s, without fetching weights."""
    import torchvision

    given: dict[str, Any] = {"weights": None}
    if backbone in AUXILIARY:  # pretrained ones expect images in the range of their first training
        given |= {"aux_logits": False, "init_weights": False, "transform_input": bool(weights)}
    if backbone.startswith("vit_") and weights:
        given["image_size"] = torchvision.models.get_model_weights(backbone)[weights].meta["min_size"][0]
    return given


def _remove_classifier(network: nn.Module) -> int:
    """Replace the network's last layer by an identity; returns the number of its input features."""
    layer = network.get_submodule(name := classifier_of(network))
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    network.set_submodule(name, nn.Identity())
    # SqueezeNet classifies by a 1×1 convolution and pools afterwards: the identity keeps its input channels.
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
