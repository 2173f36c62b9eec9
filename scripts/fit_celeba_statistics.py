"""Fit `fairnb/data/drawn/celeba_statistics.csv`, the numbers that the drawn faces' labels follow, to CelebA's annotations.

    .venv/bin/python scripts/fit_celeba_statistics.py <list_attr_celeba.txt> fairnb/data/drawn/celeba_statistics.csv

Per group of `Male`, the share of each attribute is counted. The clarity of each attribute, how much of the annotators'
judgement a picture can show, is set so that the best possible classifier is as accurate as a network is on CelebA
(`PUBLISHED`). Then the correlations of what the pictures show are fitted, so that the labels' pairwise phi coefficients are
CelebA's.
`fairnb.data.drawn.people` says what model these are the parameters of.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from fairnb.data.drawn.people import Statistics
from fairnb.data.layouts import read_attributes

# Accuracy of MCNN-AUX on CelebA's test split in percent, in the file's order of attributes: Hand and Chellappa, "Attributes
# for improved attributes: a multi-task network utilizing implicit and explicit relationships for facial attribute
# classification", AAAI 2017.
PUBLISHED = torch.tensor(
    [95, 83, 83, 85, 99, 96, 71, 85, 90, 96, 96, 89, 93, 96, 96, 100, 97, 98, 92, 88,
     98, 94, 97, 87, 96, 76, 97, 77, 94, 95, 98, 93, 84, 84, 90, 99, 94, 87, 97, 88]
) / 100  # fmt: skip
CLEAREST = 0.999  # an attribute that networks never miss
NODES, WEIGHTS = map(torch.from_numpy, np.polynomial.legendre.leggauss(32))


def both_above(h: Tensor, k: Tensor, rho: Tensor) -> Tensor:
    """P[a > h, b > k] of two standard normals with correlation rho, by quadrature over it (Drezner and Wesolowsky, 1990)."""
    half = torch.asin(rho).unsqueeze(-1) / 2
    angle = half * (NODES + 1)
    h, k = h.unsqueeze(-1), k.unsqueeze(-1)
    density = torch.exp(-(h**2 + k**2 - 2 * h * k * torch.sin(angle)) / (2 * torch.cos(angle) ** 2))
    above = torch.special.ndtr(-h) * torch.special.ndtr(-k)
    return above.squeeze(-1) + (half * WEIGHTS * density).sum(-1) / (2 * torch.pi)


def best_accuracy(clarity: float, threshold: Tensor, weight: Tensor) -> float:
    """Accuracy of the best classifier of one attribute: it predicts the label where the picture's own intensity is above 0.

    Args:
        clarity: correlation of picture and annotators.
        threshold: float64 [G], where the annotators' intensity becomes a label in each group.
        weight: float64 [G], each group's share of the images.
    """
    predicted = threshold / clarity
    both = both_above(threshold, predicted, torch.full_like(threshold, clarity))
    right = 1 - torch.special.ndtr(-threshold) - torch.special.ndtr(-predicted) + 2 * both
    return float((right * weight).sum())


def fit_clarity(share: Tensor, weight: Tensor, published: float) -> float:
    """Clarity at which the best accuracy is what networks reach, or one point over always giving the commoner answer."""
    overall = float((share * weight).sum())
    target = max(published, max(overall, 1 - overall) + 0.01)
    threshold = -torch.special.ndtri(share.clamp(1e-9, 1 - 1e-9))
    if best_accuracy(CLEAREST, threshold, weight) <= target:
        return CLEAREST
    return brentq(lambda clarity: best_accuracy(clarity, threshold, weight) - target, 0.05, CLEAREST)


def fit_correlation(labels: Tensor, clarity: Tensor, scale: Tensor) -> Tensor:
    """Correlation matrix of one group's picture intensities, fitted to how often each pair of labels occurs together.

    Args:
        labels: float64 [N, A], one group's annotations.
        clarity: float64 [A].
        scale: float64 [A], each label's standard deviation over all groups: differences are measured as phi coefficients.
    """
    share = labels.mean(dim=0)
    seen = (labels.T @ labels) / len(labels)
    threshold = -torch.special.ndtri(share.clamp(1e-9, 1 - 1e-9))
    count = len(share)
    first, second = torch.triu_indices(count, count, 1)
    factor = torch.eye(count, dtype=torch.float64).requires_grad_()

    def correlation() -> Tensor:
        rows = factor / factor.norm(dim=1, keepdim=True)
        return 0.99 * rows @ rows.T + 0.01 * torch.eye(count)  # stays a correlation matrix when it is rounded

    optimiser = torch.optim.LBFGS([factor], max_iter=300, line_search_fn="strong_wolfe", tolerance_change=1e-12)

    def misfit() -> Tensor:
        optimiser.zero_grad()
        of_labels = correlation()[first, second] * clarity[first] * clarity[second]
        together = both_above(threshold[first], threshold[second], of_labels)
        loss = (((together - seen[first, second]) / (scale[first] * scale[second])) ** 2).sum()
        loss.backward()
        return loss

    optimiser.step(misfit)
    return correlation().detach()


def main() -> None:
    table = read_attributes(Path(sys.argv[1])).drop(columns="image")
    names, labels = list(map(str, table)), torch.tensor(table.astype(int).to_numpy() > 0, dtype=torch.float64)
    is_male = labels[:, names.index("Male")].bool()
    groups = [labels[~is_male], labels[is_male]]
    weight = torch.tensor([len(group) for group in groups]).double() / len(labels)
    share = torch.stack([group.mean(dim=0) for group in groups])
    clarity = torch.ones(len(names), dtype=torch.float64)
    for column, (name, published) in enumerate(zip(names, PUBLISHED.tolist(), strict=True)):
        if name == "Male":  # its label makes the groups
            clarity[column] = fit_clarity(weight[1:], torch.ones(1), published)
        else:
            clarity[column] = fit_clarity(share[:, column], weight, published)
    scale = labels.std(dim=0, correction=0)
    Statistics(
        names=tuple(names),
        published=PUBLISHED.double(),
        clarity=clarity,
        share=labels.mean(dim=0),
        share_of_group=share,
        correlation=torch.stack([fit_correlation(group, clarity, scale) for group in groups]),
    ).save(Path(sys.argv[2]))


if __name__ == "__main__":
    main()
