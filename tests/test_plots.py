"""Figures as they are drawn: nothing that is shown is cut off, collides or cannot be seen."""

from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.collections import PathCollection

from fairnb.book import plots, training_plots


@pytest.fixture(autouse=True)
def style():
    plots.set_style()
    yield
    plt.close("all")


def scores(highest):
    values = {("Bald", "female"): 0.0, ("Bald", "male"): 0.4, ("Young", "female"): highest, ("Young", "male"): 0.9}
    return pd.DataFrame([(*key, us) for key, us in values.items()], columns=["label", "group", "us"])


@pytest.mark.parametrize(("highest", "end"), [(0.95, 1.03), (1.3, 1.339), (7.0, 2.5)])
def test_the_axis_of_us_ends_where_the_data_end(highest, end):
    axis = plots.underestimation_scores(scores(highest)).axes[0]
    assert axis.get_xlim() == pytest.approx((0, end))
    assert ("cut at 2.5" in axis.get_xlabel()) == (highest > 2.5)
    assert [text.get_text().strip() for text in axis.texts] == ["7.0"] * (highest > 2.5)


def test_a_label_that_is_never_predicted_has_a_marker():
    figure = plots.underestimation_scores(scores(1.3))
    axis = figure.axes[0]
    (marked,) = [line for line in axis.lines if line.get_marker() not in ("", "None")]
    bald = axis.containers[0][0]  # the worst comes first
    assert marked.get_color() == plots.GROUP_COLOURS[0]
    assert np.asarray(marked.get_xydata()).tolist() == [[0, pytest.approx(bald.get_y() + bald.get_height() / 2)]]
    assert not marked.get_clip_on()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["female", "male", "never predicted"]
    without = plots.underestimation_scores(scores(1.3).assign(us=0.5)).legends[0]
    assert [text.get_text() for text in without.get_texts()] == ["female", "male"]


def test_the_legend_of_bars_hides_none():
    for figure in (plots.underestimation_scores(scores(1.3)), plots.prevalence(scores(1.0).rename(columns={"us": "share"}))):
        figure.canvas.draw()
        assert not figure.legends[0].get_window_extent().overlaps(figure.axes[0].get_window_extent())


def of_many_groups(groups, **values):
    cells = pd.DataFrame([(label, f"Group {k}") for label in "ABC" for k in range(groups)], columns=["label", "group"])
    return cells.assign(us=1.0, **values)


def test_scores_of_many_groups_are_written_in_a_grid():
    table = of_many_groups(14)
    table.loc[:3, "us"] = [0.0, float("nan"), 0.456, 7.3]  # of label A
    figure = plots.underestimation_scores(table)
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.texts[:5]] == ["0", "–", "0.46", "7.30", "1.00"]
    assert len(axis.texts) == 3 * 14
    (cells,) = axis.images
    never, _, below, above, ideal, limit = (cells.to_rgba(np.array(us)) for us in [*table.us[:5], 2.5])
    assert ideal[:3] == pytest.approx((0.97, 0.97, 0.97), abs=0.01)  # the middle of the colours
    assert never[0] > never[2]  # brown below 1, violet above
    assert below[0] > below[2]
    assert above[0] < above[2]
    assert above == limit
    assert figure.get_size_inches()[0] <= 9
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axis.texts]
    assert not any(box.overlaps(other) for i, box in enumerate(boxes) for other in boxes[:i])


def test_prevalence_in_many_groups_is_a_grid():
    (axis,) = plots.prevalence(of_many_groups(5, share=0.25)).axes
    assert {text.get_text() for text in axis.texts} == {"0.25"}
    assert [text.get_text() for text in axis.get_xticklabels()] == [f"Group {k}" for k in range(5)]


def test_every_group_has_a_look_of_its_own_by_epoch():
    table = pd.concat([of_many_groups(14).assign(epoch=epoch) for epoch in (1, 2)])
    (axis,) = training_plots.us_by_epoch(table, 1).axes
    looks = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in axis.lines if line.get_marker() == "."}
    assert set(looks) == {f"Group {k}" for k in range(14)}
    assert len(set(looks.values())) == 14


def test_a_dollar_sign_in_a_name_is_no_formula():
    table = pd.DataFrame({"label": ["A$B$C"] * 2, "group": ["a$b$c", "d"], "share": [0.2, 0.3]})
    figure = plots.prevalence(table)
    figure.canvas.draw()
    shown: list[Any] = [*figure.axes[0].get_yticklabels(), figure.legends[0].get_texts()[0]]
    assert [text._preprocess_math(text.get_text()) for text in shown] == [("A$B$C", False), ("a$b$c", False)]


@pytest.mark.parametrize("width", [0.2, 0.01, 0.001])
def test_ticks_of_many_fronts_do_not_collide(width):
    accuracy = [start + torch.linspace(0, width, 9) for start in torch.linspace(0.7, 0.79, 6)]
    uei = [torch.linspace(0, width, 9)] * 6
    search: Any = SimpleNamespace(uei=uei, accuracy=accuracy, picked=[3] * 6)
    figure = plots.pareto_fronts(search, [f"Label_{i}" for i in range(6)])
    figure.canvas.draw()
    boxes = []
    for axis in figure.axes:
        for one, (low, high) in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim())):
            ticks = [tick for tick in one.get_major_ticks() if low <= tick.get_loc() <= high]
            assert len(ticks) >= 2
            boxes += [tick.label1.get_window_extent() for tick in ticks]
    assert not any(box.overlaps(other) for i, box in enumerate(boxes) for other in boxes[:i])
    assert figure.get_size_inches()[0] <= 7  # a page shows it as wide as that, a phone half as wide


def test_no_marker_of_an_ablation_is_cut():
    columns = ["uei", "accuracy"]
    rows = pd.DataFrame(
        {"data": ["drawn"] * 3, "setting": ["a", "b", "c"], "uei": [0.0, 0.1, 0.2], "accuracy": [0.8, 0.9, 1]}
    )
    rows = rows.assign(**{f"{name}{end}": rows[name] for name in columns for end in ("_low", "_high")}, uei_pick=0.0)
    figure = plots.ablation(rows)
    figure.canvas.draw()
    for axis in figure.axes:
        for dots in (found for found in axis.collections if isinstance(found, PathCollection)):
            middle = axis.transData.transform(dots.get_offsets())
            radius = np.sqrt(dots.get_sizes().max()) / 2 * figure.dpi / 72
            inside = axis.get_window_extent().padded(-radius)
            assert all(inside.contains(*place) for place in middle)


def test_a_trade_off_has_a_band_per_method():
    rows = [("multi-task", t, 0.2 - t + s / 100, 0.9 - t) for t in (0.01, 0.1) for s in (0, 1, 2)]
    rows += [("label thresholds", t, 0.3 - t, 0.8 - t) for t in (0.01, 0.1)]
    figure = plots.trade_off(pd.DataFrame(rows, columns=["method", "tolerance", "uei", "accuracy"]), 0.92, 0.4)
    (axis,) = figure.axes
    lines: Any = {line.get_label(): line.get_xydata() for line in axis.get_lines()}
    assert np.allclose(lines["multi-task"], [[0.89, 0.2], [0.8, 0.11]])
    assert np.allclose(lines["base"], [[0.92, 0.4]])
    band = np.asarray(axis.collections[0].get_paths()[0].vertices)
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((0.1, 0.21))
