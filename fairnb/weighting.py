"""Weights by group: of images in the loss, and of positives in the measure that chooses the epoch."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def weighted_mean_average_precision(scores: Tensor, labels: Tensor, group: Tensor) -> float:
    """Mean average precision in which every group's positives weigh the same: Wang et al. (2020), section 5.

    Of a label's positives, those of group g weigh N / (G · N_g), where N counts the label's positives and N_g those in g;
    negatives weigh 1. For two groups: (N_m + N_f) / (2 N_own).

    Args:
        scores: [N, L], higher is more positive.
        labels: bool [N, L].
        group: int64 [N].

    Returns:
        The mean over the labels that have a positive, in [0, 1]; NaN where none has.
    """
    from sklearn.metrics import average_precision_score  # slow to import

    member = torch.nn.functional.one_hot(group).double()  # [N, G]
    counts = labels.double().T @ member  # [L, G] positives per group
    weight = counts.sum(1, keepdim=True) / (counts > 0).sum(1, keepdim=True) / counts.clamp(min=1)
    weights = torch.where(labels, (member @ weight.T), 1.0)  # [N, L]
    return float(
        np.mean(
            [
                average_precision_score(labels[:, j].numpy(), scores[:, j].numpy(), sample_weight=weights[:, j].numpy())
                for j in range(labels.shape[1])
                if bool(labels[:, j].any())
            ]
            or [math.nan]
        )
    )


def reweighing(labels: Tensor, group: Tensor, groups: int) -> Tensor:
    """Weights under which a label does not depend on the group: Kamiran and Calders (2012).

    Images of group g with value y of a label weigh P[S=g] · P[Y=y] / P[S=g, Y=y].

    Args:
        labels: bool [N, L].
        group: int64 [N] in 0..G-1.
        groups: G.

    Returns:
        float32 [G, L, 2], the last dimension the label's value; 0 where nobody is.
    """
    member = torch.nn.functional.one_hot(group, groups).double()  # [N, G]
    positive = member.T @ labels.double()  # [G, L]
    joint = torch.stack([member.sum(0).unsqueeze(1) - positive, positive], dim=-1)  # [G, L, 2]
    expected = joint.sum(-1, keepdim=True) * joint.sum(0, keepdim=True) / len(group)
    return torch.where(joint > 0, expected / joint.clamp(min=1), 0.0).float()
