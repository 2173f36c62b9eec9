"""Figures of a training: its curves, its costs, and US by epoch."""

from __future__ import annotations

from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fairnb.book.plots import FEW_GROUPS, GROUP_COLOURS, PALETTE, words

COLUMNS = 3  # of a legend


def learning_curves(history: pd.DataFrame) -> Figure:
    """Loss, the criterion for the epoch kept, accuracy and UEI by epoch; the epoch kept is marked.

    The history has columns epoch, loss, val_loss, val_map, val_accuracy, val_uei, best.
    """
    panels = {"loss (BCE)": "val_loss", "weighted mAP": "val_map", "mean accuracy": "val_accuracy", "mean UEI": "val_uei"}
    figure, axes = plt.subplots(2, 2, figsize=(7, 4.6), sharex=True, layout="constrained")
    best = history.epoch[history.best].iloc[0]
    marker = "." if len(history) < 30 else ""
    axes[0, 0].plot(history.epoch, history.loss, "--", color=PALETTE[7], marker=marker, label="training")
    for axis, (title, column) in zip(axes.flat, panels.items(), strict=True):
        axis.plot(history.epoch, history[column], "-", color=PALETTE[0], marker=marker, label="validation")
        axis.axvline(best, color=PALETTE[2], linestyle=":", label="epoch kept")
        axis.set(title=title)
        axis.xaxis.get_major_locator().set_params(integer=True)
    plt.setp(axes[1], xlabel="epoch")
    axes[0, 0].legend(fontsize="x-small")
    return figure


def epoch_costs(history: pd.DataFrame) -> Figure:
    """Seconds of each epoch by purpose, from columns epoch, training, waiting (a part of training), validating, saving."""
    parts = {"forward, backward, step": history.training - history.waiting, "waiting for images": history.waiting}
    parts |= {"validation": history.validating, "saving": history.saving}
    figure, axis = plt.subplots(figsize=(7, 2.8), layout="constrained")
    below = np.zeros(len(history))
    for (name, seconds), colour, hatch in zip(parts.items(), PALETTE, ("", "///", "...", "xxx"), strict=False):
        axis.bar(history.epoch, seconds, bottom=below, color=colour, hatch=hatch, edgecolor="white", linewidth=0, label=name)
        below += seconds.to_numpy()
    axis.set(xlabel="epoch", ylabel="seconds")
    axis.locator_params(axis="x", integer=True)
    axis.grid(visible=False, axis="x")
    figure.legend(loc="outside upper center", ncols=len(parts), fontsize="small")
    return figure


def us_by_epoch(us: pd.DataFrame, kept: int) -> Figure:
    """US by epoch, from columns epoch, label, group, us: each group's median; the epoch `kept` is marked.

    Up to `FEW_GROUPS` groups also have a band between their quartiles.
    """
    groups = us.group.unique()
    figure, axis = plt.subplots(figsize=(7, 3.2 + 0.2 * (len(groups) // COLUMNS)), layout="constrained")
    for group, colour, style in zip(groups, cycle(GROUP_COLOURS), cycle(("-", "--", "-.")), strict=False):
        middle = us[us.group == group].groupby("epoch").us.quantile([0.25, 0.5, 0.75]).unstack()
        axis.plot(middle.index, middle[0.5], style, color=colour, marker="." if len(middle) < 30 else "", label=words(group))
        if len(groups) <= FEW_GROUPS:
            axis.fill_between(middle.index, middle[0.25], middle[0.75], color=colour, alpha=0.15, linewidth=0)
    axis.axhline(1, color="red", linewidth=1.5)
    axis.axvline(kept, color=PALETTE[2], linestyle=":", label="epoch kept")
    axis.set(xlabel="epoch", ylabel="underestimation score")
    axis.set_ylim(bottom=0)
    axis.locator_params(axis="x", integer=True)
    figure.legend(loc="outside upper center", ncols=min(COLUMNS, len(groups) + 1), fontsize="small")
    return figure
