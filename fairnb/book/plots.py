"""The figures of the book. Each function takes a table or a result and returns a matplotlib Figure.

Colours and style are seaborn's, without its import, which takes seconds. Every colour comes with a marker, a hatch or a
position, or with its value written on it, so that figures survive black-and-white print.
"""

from __future__ import annotations

import sys
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import Normalize, TwoSlopeNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager, get_font
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from torch import Tensor

from fairnb.methods import METHODS, Search, group_use

CODES = ("0173b2", "de8f05", "029e73", "d55e00", "cc78bc", "ca9161", "fbafe4", "949494", "ece133", "56b4e9")
PALETTE = [to_rgb(f"#{code}") for code in CODES]  # seaborn's "colorblind"
GROUP_COLOURS = [PALETTE[0], PALETTE[1], *PALETTE[4:]]  # blue and orange, as in the paper's Figure 1
FEW_GROUPS = 4  # whose bars can be told apart
LONGEST = 60  # letters of a name in a figure
MISSING = "Glyph .* missing from font"  # matplotlib's warning; `words` tells it once
UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn")  # categories of characters without a picture, such as those that turn the direction
OTHER_SCRIPTS = (  # fonts, for names in letters that DejaVu lacks
    "Noto Sans CJK JP", "Noto Sans JP", "Noto Sans CJK SC", "Noto Sans KR", "IPAexGothic", "IPAGothic", "TakaoGothic",
    "WenQuanYi Zen Hei", "Hiragino Sans", "Yu Gothic", "MS Gothic", "Microsoft YaHei", "Malgun Gothic",
    "Arial Unicode MS", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Emoji", "Segoe UI Emoji", "Segoe UI Symbol",
)  # fmt: skip
MEASURED = {"uei": "UEI (0 is ideal)", "accuracy": "accuracy"}  # titles of two panels
GROUP_LOOKS = {  # by the prediction's use of the group: legend, marker, filling
    "unused": ("group unused", "o", PALETTE[0]),
    "inferred": ("group can be inferred from the image", "D", PALETTE[0]),
    "given": ("group given", "o", "white"),
}


def set_style() -> None:
    """Use seaborn's style for all later figures: white grid, type legible in print. In a notebook they are shown there.

    A backend that MPLBACKEND names, such as Agg on a cluster, would leave a notebook without figures.
    """
    shell: Any = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    in_notebook = {"inline", "nbagg", "notebook", "widget"}
    if hasattr(shell, "kernel") and (used := plt.get_backend().lower()) not in in_notebook and "module://" not in used:
        shell.run_line_magic("matplotlib", "inline")
    warnings.filterwarnings("ignore", MISSING)
    plt.style.use("seaborn-v0_8-whitegrid")
    look: Any = {"figure.dpi": 110, "savefig.bbox": "tight", "axes.prop_cycle": plt.cycler(color=PALETTE)}
    look |= {"font.size": 10.8, "axes.titlesize": "medium"} | dict.fromkeys(["xtick.labelsize", "ytick.labelsize"], 9.9)
    plt.rcParams |= (
        look | {"font.family": families()} | {"legend.fontsize": 9.9, "legend.frameon": True, "patch.force_edgecolor": True}
    )


def families() -> list[str]:
    """The fonts of figures: matplotlib's own, then those on this machine that have the letters of other scripts."""
    there = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in OTHER_SCRIPTS if name in there)]


@contextmanager
def in_every_script() -> Iterator[None]:
    """Use `families` for figures made and saved here, without matplotlib's own warning of letters that all of them lack."""
    with plt.rc_context({"font.family": families()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", MISSING)
        yield


def words(name: object, longest: int = LONGEST) -> str:
    """A name as figures show it, once: on one line, of at most `longest` letters, spaces for underscores, $ no formula.

    Letters that no font of this machine has are boxes, and told by a warning.
    """
    plain = "".join(letter if letter.isspace() or unicodedata.category(letter) not in UNSEEN else "" for letter in str(name))
    plain = " ".join(plain.replace("_", " ").split()) or ascii(name)
    plain = plain if len(plain) <= longest else f"{plain[: longest - longest // 4 - 1]}…{plain[-(longest // 4) :]}"
    if lacking := "".join(dict.fromkeys(letter for letter in plain if not _has_glyph(letter))):
        _tell_once(f"no font here has {lacking!r}, and figures show boxes: install one, such as {OTHER_SCRIPTS[0]}")
    return plain.replace("$", r"\$")


@cache
def _tell_once(note: str) -> None:
    warnings.warn(note, stacklevel=3)


@cache
def _has_glyph(letter: str) -> bool:
    return any(get_font(findfont(name)).get_char_index(ord(letter)) for name in families())


def portraits(images: Sequence[Tensor], titles: Sequence[str], columns: int = 8) -> Figure:
    """Pictures in rows of `columns`, each uint8 [3, H, W] of one size, below their titles (underscores as spaces)."""
    rows, (height, width) = -(-len(images) // columns), images[0].shape[1:]
    size = (8, rows * (8 / columns * height / width + 0.2))
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axis in grid.flat:
        axis.set_axis_off()
    for axis, image, title in zip(grid.flat, images, titles, strict=False):
        axis.imshow(image.permute(1, 2, 0).numpy())
        axis.set_title(words(title, 24), fontsize=7, pad=2)
    return figure


def prevalence(table: pd.DataFrame) -> Figure:
    """Share of each label in each group, from columns label, group, share (`Faces.prevalence`); of many groups, a grid."""
    order = table.groupby("label").share.mean().sort_values(ascending=False).index
    if table.group.nunique() > FEW_GROUPS:
        return _grid(table, "share", order, Normalize(0, 1), "share of the group's images with the label")
    figure, axis = _bars(table, "share", order)
    axis.set(xlabel="share of the group's images with the label", ylabel="", xlim=(0, 1))
    _legend(axis, table.group.unique())
    return figure


def underestimation_scores(groups: pd.DataFrame, limit: float = 2.5) -> Figure:
    """US per label and group with a line at 1: the paper's Figure 1. A score of 0, which has no bar, has a marker.

    The table has columns label, group, us, of one method and split. A bar longer than `limit` is cut there, with its value
    beside it. More than `FEW_GROUPS` groups make a grid, whose colours end at `limit`.
    """
    worst = groups.groupby("label").us.min().sort_values()
    if groups.group.nunique() > FEW_GROUPS:
        title = "underestimation score (1 is ideal, below 1 underestimates)\n0: never predicted, –: no positives"
        return _grid(groups, "us", worst.index, TwoSlopeNorm(1, 0, limit), title)
    figure, axis = _bars(groups.assign(us=groups.us.clip(upper=limit)), "us", worst.index)
    marks, looks = [], zip(groups.group.unique(), cycle(GROUP_COLOURS), cycle("oDs^"), strict=False)
    for container, (group, colour, marker) in zip(axis.containers, looks, strict=True):
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


def beside_chance(labels: pd.DataFrame) -> Figure:
    """Each label's UEI with its interval, and a tick at the UEI expected by chance; labels by falling UEI.

    The table has columns label, uei, uei_low, uei_high (which may be NaN) and uei_chance.
    """
    table = labels.sort_values("uei", ascending=False, kind="stable")
    figure, axis = plt.subplots(figsize=(7, 1.2 + 0.24 * len(table)), layout="constrained")
    place = np.arange(len(table))
    axis.hlines(place, table.uei_low, table.uei_high, color=PALETTE[7], linewidth=2)
    axis.plot(table.uei_chance, place, "|", color=PALETTE[3], markersize=9, markeredgewidth=2, label="expected by chance")
    axis.plot(table.uei, place, "o", color=PALETTE[0], markersize=5, label="UEI, and its interval")
    axis.set(xlabel="UEI (0 is ideal)")
    _from_zero(axis)
    _finish(figure, table.label, ncols=2, fontsize="small")
    return figure


def pareto_fronts(search: Search, names: list[str], columns: int = 3) -> Figure:
    """Candidates of a search on validation, the base model and the pick marked; a panel per swarm, titled by `names`."""
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    size = (5.5, 3.8) if len(names) == 1 else (2.2 * columns, 1.7 * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    panels = zip(names, search.uei, search.accuracy, search.picked, strict=True)
    for axis, (name, uei, accuracy, picked) in zip(grid.flat, panels, strict=False):
        axis.plot(accuracy[1:], uei[1:], ".", color=PALETTE[0], label="Pareto set")
        axis.plot(accuracy[0], uei[0], "o", color=METHODS["base"].colour, label="base model")
        axis.plot(accuracy[picked], uei[picked], "*", color="black", markersize=11, label="picked")
        axis.set_title(words(name))
        axis.margins(0.1)
        axis.set_ylim(bottom=-0.1 * axis.get_ylim()[1])
        axis.locator_params(nbins=4 if len(names) == 1 else 3)
        if len(names) > 1:  # only the ends: labels would collide in a small panel
            axis.set_xticks(sorted({round(float(end), 3) for end in (accuracy.min(), accuracy.max())}))
        axis.tick_params(labelsize="small", pad=1)
    for axis in grid.flat[len(names) :]:
        axis.set_axis_off()
    figure.supxlabel("accuracy on validation", size="small")
    figure.supylabel("UEI on validation", size="small")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize="small")
    return figure


def comparison(labels: pd.DataFrame) -> Figure:
    """UEI and accuracy per analysed label, from columns method, label, uei, accuracy of one split: the paper's Figure 4."""
    methods = [method for method in METHODS if method in set(labels.method)]
    order = labels[labels.method == "base"].sort_values("uei", ascending=False).label
    figure, axes = plt.subplots(1, 2, figsize=(10, 0.9 + 0.32 * len(order)), sharey=True, layout="constrained")
    place = np.arange(len(order))
    for axis, (column, title) in zip(axes, MEASURED.items(), strict=True):
        table = labels.pivot(index="label", columns="method", values=column).loc[order]
        axis.hlines(place, table.min(axis=1), table.max(axis=1), color="0.65", linewidth=1.5, zorder=1)
        for method in methods:
            colour, marker = METHODS[method].colour, METHODS[method].marker
            axis.scatter(table[method], place, color=colour, marker=marker, s=28, label=words(method), zorder=2)
            axis.axvline(table[method].mean(), color=colour, linestyle=":", linewidth=1.2)
        axis.set(xlabel=f"{title}; dotted: mean over labels")
    _from_zero(axes[0])
    _finish(figure, order, ncols=len(methods))
    return figure


def hypervolume_curves(searches: dict[str, Search]) -> Figure:
    """Hypervolume gained by iteration, as a share of the final gain: mean and range over swarms."""
    figure, axis = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
    for name, search in searches.items():
        colour, volume = METHODS[name].colour, search.fronts.hypervolume.numpy()
        volume = volume[:, volume[-1] > volume[0]]  # swarms without a gain have no share
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
    """UEI and accuracy of each method with their `_low` and `_high`; markers show the use of the group."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 0.9 + 0.3 * len(table)), sharey=True, layout="constrained")
    place, uses = np.arange(len(table)), table.method.map(group_use)
    for axis, (column, title) in zip(axes, MEASURED.items(), strict=True):
        axis.hlines(place, table[f"{column}_low"], table[f"{column}_high"], color=PALETTE[7], linewidth=2.5)
        for use, (label, marker, face) in GROUP_LOOKS.items():
            x, y = table[column][uses == use], place[uses == use]
            axis.scatter(x, y, s=40, marker=marker, facecolor=face, edgecolor=PALETTE[0], zorder=3, label=label)
        axis.set(xlabel=f"mean {title}")
    _from_zero(axes[0])
    _finish(figure, table.method, ncols=3, fontsize="small")
    return figure


def label_changes(table: pd.DataFrame) -> Figure:
    """Changes of each label's UEI, with the label's own interval; filled if significant by Holm; a panel per method."""
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
            x, y = rows.change[these], place[these]
            axis.scatter(x, y, marker=marker, color=face, edgecolor=colour, s=32, zorder=3, label=name)
        axis.axvline(0, color="red", linewidth=1.2)
        axis.set(xlabel="change of UEI on test", title=words(method))
    _finish(figure, order, ncols=3, fontsize="small")
    return figure


def ablation(table: pd.DataFrame) -> Figure:
    """Results of an ablation's settings (see `tables.ablation`): mean and range over the seeds, one colour per dataset."""
    settings, datasets = list(table.setting.unique()), list(table.data.unique())
    size = (8, 1.3 + 0.26 * len(settings) * len(datasets))
    figure, axes = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    for k, (data, colour, marker) in enumerate(zip(datasets, cycle(PALETTE[:6]), cycle("osD^vP"), strict=False)):
        rows = table[table.data == data].set_index("setting").reindex(settings)
        place = np.arange(len(settings)) + (k - (len(datasets) - 1) / 2) * 0.25
        for axis, column in zip(axes, ("uei", "accuracy"), strict=True):
            axis.hlines(place, rows[f"{column}_low"], rows[f"{column}_high"], color=colour, linewidth=2)
            axis.scatter(rows[column], place, color=colour, label=words(data), marker=marker, s=30, zorder=3)
        look = {"facecolor": "white", "edgecolor": colour, "label": f"{words(data)}, where picked"}
        axes[0].scatter(rows.uei_pick, place, marker=marker, s=30, zorder=3, **look)
    axes[0].set(xlabel="mean UEI (0 is ideal)")
    axes[1].set(xlabel="mean accuracy on test")
    _from_zero(axes[0])
    _finish(figure, settings, ncols=len(datasets), fontsize="small")
    axes[0].set_ylim(len(settings) - 0.4, -0.6)
    return figure


def trade_off(table: pd.DataFrame, accuracy: float, uei: float) -> Figure:
    """A sweep's UEI by accuracy, one curve per method over its tolerances: means over the other runs, and their range.

    `table` has columns method, tolerance, uei and accuracy; `accuracy` and `uei` are the base model's.
    """
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, rows in table.groupby("method", sort=False):
        method, by = METHODS[str(name)], rows.groupby("tolerance")
        places = by.accuracy.mean()
        axis.fill_between(places, by.uei.min(), by.uei.max(), color=method.colour, alpha=0.2, linewidth=0)
        axis.plot(places, by.uei.mean(), color=method.colour, marker=method.marker, label=name)
    axis.plot(accuracy, uei, "k+", markersize=10, label="base")
    axis.set(xlabel="mean accuracy on test", ylabel="mean UEI on test (0 is ideal)")
    axis.set_ylim(bottom=0)
    figure.legend(loc="outside upper center", ncols=2, fontsize="small")
    return figure


def by_cell(table: pd.DataFrame, value: str, title: str) -> Figure:
    """A row per group and a dot per model, from columns model, group and `value`, which `title` describes."""
    models, groups = table.model.unique(), list(table.group.unique())
    figure, axis = plt.subplots(figsize=(7, 1.2 + 0.12 * len(models) * len(groups)), layout="constrained")
    for k, (model, colour, marker) in enumerate(zip(models, cycle(PALETTE), cycle("oDs^v"), strict=False)):
        rows = table[table.model == model].set_index("group")[value].reindex(groups)
        place = np.arange(len(groups)) + (k - (len(models) - 1) / 2) * 0.7 / len(models)
        axis.plot(rows, place, marker, color=colour, markersize=5, label=words(model))
    axis.set(xlabel=title, xlim=(0, None))
    _finish(figure, groups, ncols=1, fontsize="small")
    return figure


def _from_zero(axis: plt.Axes) -> None:
    """Begin the axis at 0, with room for a whole marker there."""
    axis.set_xlim(left=-0.03 * axis.get_xlim()[1])


def _finish(figure: Figure, rows: Sequence[str] | pd.Series | pd.Index, **legend: Any) -> None:
    """Name the rows 0, 1, … of the panels, from the top, and add the legend of the first panel."""
    for axis in figure.axes:
        axis.grid(visible=False, axis="y")
    axis = figure.axes[0]
    axis.set_yticks(np.arange(len(rows)), list(map(words, rows)))
    axis.invert_yaxis()
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", **legend)


def _grid(table: pd.DataFrame, value: str, order: pd.Index, norm: Normalize, title: str) -> Figure:
    """A cell per label and group, its value written on its colour; colours diverge from a norm's centre, if any."""
    names = list(table.group.unique())
    values = table.pivot(index="label", columns="group", values=value).loc[order, names].to_numpy()
    size = (min(9, 2.5 + 0.5 * len(names)), 1.8 + 0.24 * len(order))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    colours = plt.get_cmap("PuOr" if isinstance(norm, TwoSlopeNorm) else "Blues")
    cells = axis.imshow(values, cmap=colours, norm=norm, aspect="auto")
    for (row, column), number in np.ndenumerate(values):
        text = "–" if np.isnan(number) else f"{number:.2f}" if number else "0"
        dark = np.dot(cells.to_rgba(number)[:3], (0.299, 0.587, 0.114)) < 0.5 and not np.isnan(number)
        axis.text(column, row, text, ha="center", va="center", size=7.5, color="white" if dark else "black")
    axis.grid(visible=False)
    axis.set_yticks(range(len(order)), list(map(words, order)))
    axis.tick_params(top=False, labeltop=True, labelbottom=False)
    axis.set_xticks(range(len(names)), list(map(words, names)), rotation=40, ha="left", rotation_mode="anchor")
    figure.supxlabel(title, size="small")
    return figure


def _bars(table: pd.DataFrame, value: str, order: pd.Index) -> tuple[Figure, plt.Axes]:
    """Horizontal bars, one per label and group; all groups but the first are hatched."""
    figure, axis = plt.subplots(figsize=(7, 1 + 0.26 * len(order)), layout="constrained")
    groups = list(table.group.unique())
    thickness = 0.8 / len(groups)
    looks = zip(groups, cycle(GROUP_COLOURS), cycle(("", "///", "...", "xxx")), strict=False)
    for k, (group, colour, hatch) in enumerate(looks):
        lengths = table[table.group == group].set_index("label")[value].reindex(order)
        place = np.arange(len(order)) + (k - (len(groups) - 1) / 2) * thickness
        axis.barh(place, lengths, thickness, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
    axis.grid(visible=False, axis="y")
    axis.set_ylim(len(order) - 0.5, -0.5)
    axis.set_yticks(range(len(order)), list(map(words, order)))
    return figure, axis


def _legend(axis: plt.Axes, groups: np.ndarray, others: dict[str, tuple[Line2D, ...]] | None = None) -> None:
    """A legend above the axes: each group's bar, then other marks by their text, several in one entry."""
    handles: list[Any] = [*(container[0] for container in axis.containers), *(others or {}).values()]
    titles = [*map(words, groups), *(others or {})]
    axis.figure.legend(
        handles, titles, loc="outside upper center", ncols=len(titles), fontsize="small",
        handler_map={tuple: HandlerTuple(ndivide=None)},
    )  # fmt: skip
