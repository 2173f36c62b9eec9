"""The figures of the book. Each takes a table or a result and returns a matplotlib Figure.

Colours and look are seaborn's, without its import, which costs seconds. What a colour tells, a marker, a hatch or a position
tells too, so that a figure survives black-and-white print.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from torch import Tensor

from fairnb.tables import METHODS, group_use

if TYPE_CHECKING:
    from fairnb.methods.strategies import Search

# Seaborn's "colorblind".
CODES = ("0173b2", "de8f05", "029e73", "d55e00", "cc78bc", "ca9161", "fbafe4", "949494", "ece133", "56b4e9")
PALETTE = [to_rgb(f"#{code}") for code in CODES]
GROUP_COLOURS = [PALETTE[0], PALETTE[1], *PALETTE[4:]]  # blue and orange, as in the paper's Figure 1
# Red, blue and green are those of its Figure 4.
METHOD_COLOURS = dict(zip(METHODS, [PALETTE[i] for i in (3, 0, 2, 1, 4, 5, 7, 9)], strict=True))
METHOD_MARKERS = dict(zip(METHODS, "osDv^<>P", strict=True))
# How a marker tells where a prediction gets the group from: its words, shape and filling.
GROUP_LOOKS = {
    "unused": ("group unused", "o", PALETTE[0]),
    "inferred": ("group can be inferred from the image", "D", PALETTE[0]),
    "given": ("group given", "o", "white"),
}


def set_style() -> None:
    """Seaborn's look for every figure that follows: white grid, type that is legible in print."""
    plt.style.use("seaborn-v0_8-whitegrid")
    look: Any = {"figure.dpi": 110, "savefig.bbox": "tight", "axes.prop_cycle": plt.cycler(color=PALETTE)}
    look |= {"font.size": 10.8, "axes.titlesize": "medium"} | dict.fromkeys(["xtick.labelsize", "ytick.labelsize"], 9.9)
    plt.rcParams |= look | {"legend.fontsize": 9.9, "legend.frameon": True, "patch.force_edgecolor": True}


def portraits(images: Sequence[Tensor], titles: Sequence[str], columns: int = 8) -> Figure:
    """Pictures in rows, a title above each.

    Args:
        images: uint8 [3, H, W] each, of one size.
        titles: one for each; an underscore is shown as a space.
        columns: pictures in a row.
    """
    rows = -(-len(images) // columns)
    height, width = images[0].shape[1:]
    size = (8, rows * (8 / columns * height / width + 0.2))
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axis in grid.flat:
        axis.set_axis_off()
    for axis, image, title in zip(grid.flat, images, titles, strict=False):
        axis.imshow(image.permute(1, 2, 0).numpy())
        axis.set_title(title.replace("_", " "), fontsize=7, pad=2)
    return figure


def prevalence(table: pd.DataFrame) -> Figure:
    """How often each label occurs in each group.

    Args:
        table: columns label, group, share (`Faces.prevalence`).
    """
    order = table.groupby("label").share.mean().sort_values(ascending=False).index
    figure, axis = _tall(len(order))
    _bars(axis, table, "share", order, GROUP_COLOURS)
    axis.set(xlabel="share of the group's images with the label", ylabel="", xlim=(0, 1))
    _legend(axis, table.group.unique())
    return figure


def underestimation_scores(groups: pd.DataFrame, limit: float = 2.5) -> Figure:
    """US per label and group with a line at 1: the paper's Figure 1. A score of 0, which has no bar, has a marker.

    Args:
        groups: rows of one method and split: columns label, group, us.
        limit: where the axis ends at the latest; a longer bar is cut there and its value written beside it.
    """
    worst = groups.groupby("label").us.min().sort_values()
    figure, axis = _tall(len(worst))
    _bars(axis, groups.assign(us=groups.us.clip(upper=limit)), "us", worst.index, GROUP_COLOURS)
    marks = []
    for container, group, colour, marker in zip(
        axis.containers, groups.group.unique(), cycle(GROUP_COLOURS), cycle("oDs^"), strict=False
    ):
        values = groups[groups.group == group].set_index("label").us
        places = pd.Series([bar.get_y() + bar.get_height() / 2 for bar in container], worst.index)
        for label in values.index[values > limit]:
            axis.annotate(f" {values[label]:.1f}", (limit, places[label]), va="center", size=7)
        if (never := places[values.index[values == 0]]).size:
            marks += axis.plot(0 * never, never, marker, color=colour, markersize=5, clip_on=False)
    axis.axvline(1, color="red", linewidth=1.5)
    cut = f"; bars are cut at {limit:g}" if groups.us.max() > limit else ""
    axis.set(xlabel=f"underestimation score (1 is ideal, below 1 underestimates{cut})", ylabel="")
    axis.set_xlim(0, min(limit, 1.03 * max(groups.us.max(), 1)))
    _legend(axis, groups.group.unique(), {"never predicted": tuple(marks)} if marks else {})
    return figure


def learning_curves(history: pd.DataFrame) -> Figure:
    """Loss, the criterion that chooses the epoch, accuracy and UEI, by epoch; the epoch kept is marked.

    Args:
        history: columns epoch, loss, val_loss, val_map, val_accuracy, val_uei, best.
    """
    panels = {
        "loss (BCE)": {"loss": "training", "val_loss": "validation"},
        "weighted mAP": {"val_map": "validation"},
        "mean accuracy": {"val_accuracy": "validation"},
        "mean UEI": {"val_uei": "validation"},
    }
    figure, axes = plt.subplots(2, 2, figsize=(7, 4.6), sharex=True, layout="constrained")
    best = history.epoch[history.best].iloc[0]
    for axis, (title, lines) in zip(axes.flat, panels.items(), strict=True):
        for column, name in lines.items():
            dashed = column == "loss"
            colour, style = (PALETTE[7], "--") if dashed else (PALETTE[0], "-")
            axis.plot(
                history.epoch, history[column], style, color=colour, marker="." if len(history) < 30 else "", label=name
            )
        axis.axvline(best, color=PALETTE[2], linestyle=":", label="epoch kept")
        axis.set(title=title)
        axis.xaxis.get_major_locator().set_params(integer=True)
    for axis in axes[1]:
        axis.set(xlabel="epoch")
    axes[0, 0].legend(fontsize="x-small")
    return figure


def epoch_costs(history: pd.DataFrame) -> Figure:
    """Seconds of each epoch by what they were spent on.

    Args:
        history: columns epoch, training, waiting (a part of training), validating, saving.
    """
    parts = {
        "forward, backward, step": history.training - history.waiting,
        "waiting for images": history.waiting,
        "validation": history.validating,
        "saving": history.saving,
    }
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
    """US over the epochs: each group's median over the labels, and the middle half of them.

    Args:
        us: columns epoch, label, group, us; the labels to take into account only.
        kept: the epoch that was kept.
    """
    figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for group, colour, style in zip(us.group.unique(), GROUP_COLOURS, ("-", "--", "-.", ":") * 9, strict=False):
        middle = us[us.group == group].groupby("epoch").us.quantile([0.25, 0.5, 0.75]).unstack()
        axis.plot(middle.index, middle[0.5], style, color=colour, marker="." if len(middle) < 30 else "", label=group)
        axis.fill_between(middle.index, middle[0.25], middle[0.75], color=colour, alpha=0.15, linewidth=0)
    axis.axhline(1, color="red", linewidth=1.5)
    axis.axvline(kept, color=PALETTE[2], linestyle=":", label="epoch kept")
    axis.set(xlabel="epoch", ylabel="underestimation score")
    axis.set_ylim(bottom=0)
    axis.locator_params(axis="x", integer=True)
    figure.legend(loc="outside upper center", ncols=len(axis.get_legend_handles_labels()[0]), fontsize="small")
    return figure


def pareto_fronts(search: Search, names: list[str], columns: int = 3) -> Figure:
    """Candidates of each swarm on validation, the base model and the pick marked.

    Args:
        search: what a strategy found.
        names: a title for each of its S swarms.
        columns: panels side by side.
    """
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    size = (5.5, 3.8) if len(names) == 1 else (2.2 * columns, 1.7 * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    panels = zip(names, search.uei, search.accuracy, search.picked, strict=True)
    for axis, (name, uei, accuracy, picked) in zip(grid.flat, panels, strict=False):
        axis.plot(accuracy[1:], uei[1:], ".", color=PALETTE[0], label="Pareto set")
        axis.plot(accuracy[0], uei[0], "o", color=METHOD_COLOURS["base"], label="base model")
        axis.plot(accuracy[picked], uei[picked], "*", color="black", markersize=11, label="picked")
        axis.set_title(name.replace("_", " "))
        axis.margins(0.1)
        axis.set_ylim(bottom=-0.1 * axis.get_ylim()[1])
        axis.locator_params(nbins=4 if len(names) == 1 else 3)
        if len(names) > 1:  # the ends alone: labels that stand side by side in a small panel would collide
            axis.set_xticks(sorted({round(float(end), 3) for end in (accuracy.min(), accuracy.max())}))
        axis.tick_params(labelsize="small", pad=1)
    for axis in grid.flat[len(names) :]:
        axis.set_axis_off()
    figure.supxlabel("accuracy on validation", size="small")
    figure.supylabel("UEI on validation", size="small")
    handles, texts = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside upper center", ncols=3, fontsize="small")
    return figure


def comparison(labels: pd.DataFrame) -> Figure:
    """UEI and accuracy per label for every method: the paper's Figure 4.

    Args:
        labels: rows of one split, analysed labels only: columns method, label, uei, accuracy.
    """
    methods = [method for method in METHODS if method in set(labels.method)]
    order = labels[labels.method == "base"].sort_values("uei", ascending=False).label
    figure, axes = plt.subplots(1, 2, figsize=(10, 0.9 + 0.32 * len(order)), sharey=True, layout="constrained")
    place = np.arange(len(order))
    for axis, (column, title) in zip(axes, {"uei": "UEI (0 is ideal)", "accuracy": "accuracy"}.items(), strict=True):
        table = labels.pivot(index="label", columns="method", values=column).loc[order]
        axis.hlines(place, table.min(axis=1), table.max(axis=1), color="0.65", linewidth=1.5, zorder=1)
        for method in methods:
            colour, marker = METHOD_COLOURS[method], METHOD_MARKERS[method]
            axis.scatter(table[method], place, color=colour, marker=marker, s=28, label=method, zorder=2)
            axis.axvline(table[method].mean(), color=colour, linestyle=":", linewidth=1.2)
        axis.set(xlabel=f"{title}; dotted: mean over labels")
        axis.grid(visible=False, axis="y")
    _from_zero(axes[0])
    axes[0].set_yticks(place, [name.replace("_", " ") for name in order])
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(methods))
    return figure


def hypervolume_curves(searches: dict[str, Search]) -> Figure:
    """How the dominated area grows with the iterations, as a share of what was reached: mean over swarms and their range."""
    figure, axis = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
    for (name, search), colour in zip(searches.items(), (METHOD_COLOURS[name] for name in searches), strict=True):
        volume = search.fronts.hypervolume.numpy()
        volume = volume[:, volume[-1] > volume[0]]  # a swarm that gained nothing has no share to show
        if not volume.shape[1]:
            continue
        gained = (volume - volume[0]) / (volume[-1] - volume[0])  # [T + 1, S]
        iterations = np.arange(len(volume))
        axis.plot(iterations, gained.mean(axis=1), color=colour, label=name)
        axis.fill_between(iterations, gained.min(axis=1), gained.max(axis=1), color=colour, alpha=0.15, linewidth=0)
    axis.set(xlabel="iteration", ylabel="hypervolume gained, share of the last", ylim=(0, 1.02))
    if axis.lines:
        axis.legend(loc="lower right")
    return figure


def methods(table: pd.DataFrame) -> Figure:
    """UEI and accuracy of each method with their intervals; markers tell where its prediction gets the group from.

    Args:
        table: columns method, uei, uei_low, uei_high, accuracy, accuracy_low, accuracy_high.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 0.9 + 0.3 * len(table)), sharey=True, layout="constrained")
    place, uses = np.arange(len(table)), table.method.map(group_use)
    for axis, (column, title) in zip(axes, {"uei": "UEI (0 is ideal)", "accuracy": "accuracy"}.items(), strict=True):
        axis.hlines(place, table[f"{column}_low"], table[f"{column}_high"], color=PALETTE[7], linewidth=2.5)
        for use, (label, marker, face) in GROUP_LOOKS.items():
            these = (uses == use).to_numpy()
            look = {"s": 40, "marker": marker, "facecolor": face, "edgecolor": PALETTE[0], "zorder": 3}
            axis.scatter(table[column][these], place[these], label=label, **look)
        axis.set(xlabel=f"mean {title}")
        axis.grid(visible=False, axis="y")
    _from_zero(axes[0])
    axes[0].set_yticks(place, table.method)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize="small")
    return figure


def label_changes(table: pd.DataFrame) -> Figure:
    """What methods did to each label's UEI, a panel each: with the label's own interval, filled where it counts for Holm.

    Args:
        table: columns method, label, change, low, high, worsened, mended; every method with the same labels, which stand in
            the order of the first.
    """
    methods = table.method.unique()
    order = table.label[table.method == methods[0]].to_list()
    size = (7 if len(methods) == 1 else 9, 1.2 + 0.26 * len(order))
    figure, axes = plt.subplots(1, len(methods), figsize=size, sharex=True, sharey=True, layout="constrained", squeeze=False)
    place = np.arange(len(order))
    for axis, method in zip(axes.flat, methods, strict=True):
        rows = table[table.method == method].set_index("label").loc[order]
        axis.hlines(place, rows.low, rows.high, color=PALETTE[7], linewidth=2)
        kinds = {
            "lower beyond chance": (rows.mended, PALETTE[2], "v", PALETTE[2]),
            "may be chance, after Holm's correction": (~rows.mended & ~rows.worsened, PALETTE[7], "o", "white"),
            "higher beyond chance": (rows.worsened, PALETTE[3], "^", PALETTE[3]),
        }
        for name, (kind, colour, marker, face) in kinds.items():
            these = kind.to_numpy(dtype=bool)
            axis.scatter(
                rows.change[these], place[these], marker=marker, color=face, edgecolor=colour, s=32, zorder=3, label=name
            )
        axis.axvline(0, color="red", linewidth=1.2)
        axis.set(xlabel="change of UEI on test", title=method)
        axis.grid(visible=False, axis="y")
    axes[0, 0].set_yticks(place, [name.replace("_", " ") for name in order])
    axes[0, 0].invert_yaxis()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize="small")
    return figure


def ablation(table: pd.DataFrame) -> Figure:
    """What the settings of one ablation reach: mean over the seeds and their range, a colour a dataset.

    Args:
        table: columns data, setting, uei, uei_low, uei_high, accuracy, accuracy_low, accuracy_high, uei_pick.
    """
    settings = list(table.setting.unique())
    datasets = list(table.data.unique())
    height = 1.3 + 0.26 * len(settings) * len(datasets)
    figure, axes = plt.subplots(1, 2, figsize=(8, height), sharey=True, layout="constrained")
    for k, (data, colour, marker) in enumerate(zip(datasets, cycle(PALETTE[:6]), cycle("osD^vP"), strict=False)):
        rows = table[table.data == data].set_index("setting").reindex(settings)
        place = np.arange(len(settings)) + (k - (len(datasets) - 1) / 2) * 0.25
        for axis, column in zip(axes, ("uei", "accuracy"), strict=True):
            axis.hlines(place, rows[f"{column}_low"], rows[f"{column}_high"], color=colour, linewidth=2)
            axis.scatter(rows[column], place, color=colour, marker=marker, s=30, zorder=3, label=data)
        axes[0].scatter(
            rows.uei_pick, place, facecolor="white", edgecolor=colour, marker=marker, s=30, zorder=3,
            label=f"{data}, where picked",
        )  # fmt: skip
    for axis, title in zip(axes, ("mean UEI (0 is ideal)", "mean accuracy on test"), strict=True):
        axis.set(xlabel=title)
        axis.grid(visible=False, axis="y")
    _from_zero(axes[0])
    axes[0].set_yticks(np.arange(len(settings)), settings)
    axes[0].set_ylim(len(settings) - 0.4, -0.6)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(datasets), fontsize="small")
    return figure


def _from_zero(axis: plt.Axes) -> None:
    """Begin at 0, with room for a whole marker there."""
    axis.set_xlim(left=-0.03 * axis.get_xlim()[1])


def _tall(labels: int) -> tuple[Figure, plt.Axes]:
    return plt.subplots(figsize=(7, 1 + 0.26 * labels), layout="constrained")


def _bars(
    axis: plt.Axes, table: pd.DataFrame, value: str, order: pd.Index, colours: list[tuple[float, float, float]]
) -> None:
    """Horizontal bars, one a label and group; the second group is hatched."""
    groups = list(table.group.unique())
    thickness = 0.8 / len(groups)
    for k, (group, colour, hatch) in enumerate(zip(groups, cycle(colours), cycle(("", "///", "...", "xxx")), strict=False)):
        lengths = table[table.group == group].set_index("label")[value].reindex(order)
        place = np.arange(len(order)) + (k - (len(groups) - 1) / 2) * thickness
        axis.barh(place, lengths, thickness, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
    axis.grid(visible=False, axis="y")
    axis.set_ylim(len(order) - 0.5, -0.5)
    axis.set_yticks(range(len(order)), [name.replace("_", " ") for name in order])


def _legend(axis: plt.Axes, groups: np.ndarray, others: dict[str, tuple[Line2D, ...]] | None = None) -> None:
    """Each group's bar, then other marks that share an entry, by what it says; above the bars, which it must not hide."""
    entries = dict(zip(groups, (container[0] for container in axis.containers), strict=True)) | (others or {})
    axis.figure.legend(
        list(entries.values()), list(entries), loc="outside upper center", ncols=len(entries), fontsize="small",
        handler_map={tuple: HandlerTuple(ndivide=None)},
    )  # fmt: skip
