"""Weights by group: of images in the loss, and of positives in the metric that chooses the epoch."""

import math

import numpy as np
import torch
from torch import Tensor


def weighted_mean_average_precision(scores: Tensor, labels: Tensor, group: Tensor) -> float:
    """Mean average precision in which every group's positives weigh the same: Wang et al. (2020), section 5.

    A positive in group g weighs N / (G · N_g), where N counts the label's positives and N_g those in g; negatives weigh 1.
    Scores [N, L], labels bool [N, L] and group int64 [N] give the mean over the labels with positives, in [0, 1], or NaN.
    """
    from sklearn.metrics import average_precision_score  # slow to import

    member = torch.nn.functional.one_hot(group).double()  # [N, G]
    counts = labels.double().T @ member  # [L, G] positives per group
    weight = counts.sum(1, keepdim=True) / (counts > 0).sum(1, keepdim=True) / counts.clamp(min=1)
    weights = torch.where(labels, (member @ weight.T), 1.0)  # [N, L]
    columns = ((part[:, j].numpy() for part in (labels, scores, weights)) for j in range(labels.shape[1]))
    precisions = [average_precision_score(y, x, sample_weight=w) for y, x, w in columns if y.any()]
    return float(np.mean(precisions or [math.nan]))


def reweighing(labels: Tensor, group: Tensor, groups: int) -> Tensor:
    """Weights that make labels independent of the group: Kamiran and Calders (2012).

    Images of group g with value y of a label weigh P[S=g] · P[Y=y] / P[S=g, Y=y]. Labels bool [N, L] and group int64 [N] in
    0..G-1 give float32 [G, L, 2], the last dimension the label's value; 0 for an empty cell.
    """
    member = torch.nn.functional.one_hot(group, groups).double()  # [N, G]
    positive = member.T @ labels.double()  # [G, L]
    joint = torch.stack([member.sum(0).unsqueeze(1) - positive, positive], dim=-1)  # [G, L, 2]
    expected = joint.sum(-1, keepdim=True) * joint.sum(0, keepdim=True) / len(group)
    return torch.where(joint > 0, expected / joint.clamp(min=1), 0.0).float()
