"""The network of the paper's section 3: a torchvision backbone whose last layer becomes two fully connected ones.

He et al., "Deep residual learning for image recognition", CVPR 2016; weights from Russakovsky et al., ImageNet, 2015.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError

import torch
from torch import Tensor, nn

from fairnb.run.messages import unknown

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum


class MultiLabelNet(nn.Module):
    """backbone → FC(→hidden) → ReLU → dropout → FC(→labels).

    Attributes:
        backbone: images float [B, 3, H, W] → pooled features [B, F].
        hidden: the first fully connected layer, F → D.
        head: the last layer, D → L, the one that the searches move; while domains are trained apart, D → G·L.
        domains: G where the last layer has a part for each group of people, see `merged`; else 1.
    """

    def __init__(
        self, backbone: nn.Module, features: int, hidden: int, labels: int, dropout: float, domains: int = 1
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.hidden = nn.Linear(features, hidden)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, domains * labels)
        self.domains = domains

    def forward(self, images: Tensor, domain: Tensor | None = None) -> Tensor:
        """Logits [B, L] of normalised images float [B, 3, H, W]; a label is predicted where its logit is above 0.

        Where there are several domains: those of each image's own domain, int64 [B], or else their mean.
        """
        logits = self.head(self.dropout(self.penultimate(images)))
        if self.domains == 1:
            return logits
        logits = logits.unflatten(1, (self.domains, -1))  # [B, G, L]
        return logits.mean(1) if domain is None else logits[torch.arange(len(images), device=images.device), domain]

    def merged(self) -> MultiLabelNet:
        """The same with one part: a copy whose last layer is the mean of its domains', and so are its logits."""
        if self.domains == 1:
            return self
        one = copy.deepcopy(self)
        weights = self.heads.unflatten(0, (self.domains, -1)).mean(0)
        one.head, one.domains = nn.Linear(self.head.in_features, len(weights), device=weights.device), 1
        one.replace_heads(weights)
        return one

    def penultimate(self, images: Tensor) -> Tensor:
        """Features [B, D] ≥ 0 that the last layer reads: what the second stage of the method works on."""
        return self.hidden(self.pooled(images)).relu()

    def pooled(self, images: Tensor) -> Tensor:
        """Features [B, F] that the first of the two fully connected layers reads."""
        return self.backbone(images)

    @property
    def heads(self) -> Tensor:
        """The last layer as one tensor, a copy: float32 [L, D + 1], each label's weights and then its bias."""
        return _weights_and_bias(self.head)

    @property
    def hidden_layer(self) -> Tensor:
        """The first fully connected layer as one tensor, a copy: float32 [D, F + 1]."""
        return _weights_and_bias(self.hidden)

    @torch.no_grad()
    def replace_heads(self, heads: Tensor, hidden: Tensor | None = None) -> None:
        """Put searched heads, float32 [L, D + 1], in place of the last layer, and `hidden` [D, F + 1] of the one before it.

        Raises:
            ValueError: if a layer has another shape.
        """
        moved = [(self.head, heads, "heads")] + ([] if hidden is None else [(self.hidden, hidden, "hidden weights")])
        for layer, weights, name in moved:
            wanted = (layer.out_features, layer.in_features + 1)
            if weights.shape != wanted:
                raise ValueError(f"{name} of shape {tuple(weights.shape)} do not fit a layer of shape {wanted}")
            layer.weight.copy_(weights[:, :-1])
            layer.bias.copy_(weights[:, -1])


def _weights_and_bias(layer: nn.Linear) -> Tensor:
    return torch.cat([layer.weight, layer.bias.unsqueeze(1)], dim=1).detach().clone()


def build_model(
    backbone: str,
    labels: int,
    hidden: int = 2048,
    dropout: float = 0.5,
    weights: str | None = None,
    *,
    seed: int = 0,
    domains: int = 1,
) -> MultiLabelNet:
    """Build the network with fresh fully connected layers.

    Args:
        backbone: any torchvision classification model by name (`resnet50`, `vit_b_16`, …).
        labels: L, outputs of the last layer.
        hidden: D, width of the first fully connected layer; the paper keeps ResNet-50's 2048.
        dropout: probability of the dropout between the two layers.
        weights: name of torchvision weights (`IMAGENET1K_V1`), or None for a backbone trained from scratch.
        seed: of every random initial weight.
        domains: parts of the last layer, one for each group of people; 1 for the usual network.

    Raises:
        ValueError: for an unknown backbone or weights (nearest name), or sizes that are not positive.
        FileNotFoundError: if the weights are not on disk and cannot be fetched.
    """
    import torchvision  # slow to import, and needed only where a network is built

    names = torchvision.models.list_models(module=torchvision.models)
    if backbone not in names:
        raise ValueError(unknown("backbone", backbone, names))
    if labels < 1 or hidden < 1 or not 0 <= dropout < 1:
        raise ValueError(f"labels={labels} and hidden={hidden} must be positive, dropout={dropout} in [0, 1)")
    chosen = None
    if weights:
        known = torchvision.models.get_model_weights(backbone)
        if weights not in known.__members__:
            raise ValueError(unknown(f"weights of {backbone}", weights, known.__members__))
        chosen = known[weights]
    with torch.random.fork_rng(devices=[]):  # nn's initialisers draw from the global generator: leave it as it was
        torch.default_generator.manual_seed(seed)
        network = _load(backbone, chosen)
        features = _remove_classifier(network)
        return MultiLabelNet(network, features, hidden, labels, dropout, domains)


def _load(backbone: str, weights: WeightsEnum | None) -> nn.Module:
    import torchvision

    # The two oldest architectures carry auxiliary classifiers for training from scratch, and warn unless told how to begin.
    extra = {"aux_logits": weights is not None, "init_weights": True} if backbone in ("googlenet", "inception_v3") else {}
    try:
        network = torchvision.models.get_model(backbone, weights=weights, **extra)
    except (URLError, OSError) as error:
        assert weights is not None
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise FileNotFoundError(
            f"{weights} of {backbone} is not on disk and cannot be fetched ({error}):\n"
            f"put the file {Path(weights.url).name} into {folder}, or choose weights='' to train from scratch"
        ) from error
    if extra:  # the auxiliary classifiers would return a tuple: only the main road is used
        network.aux_logits = False
        for name in ("aux1", "aux2", "AuxLogits"):
            if hasattr(network, name):
                setattr(network, name, None)
    return network


def _remove_classifier(network: nn.Module) -> int:
    """Put an identity in place of the network's last layer, and return how many features reach it."""
    name, layer = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    owner, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(owner), attribute, nn.Identity())
    # SqueezeNet classifies with a 1×1 convolution and pools afterwards: the identity leaves its input channels.
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
