"""The Pareto explorer: choose a label, move the tolerance or a side condition, and see the pick on the label's front.

    table = candidates(search, thresholds, features, base.heads, experiment.analysed, faces)
    HTML(frame(table, experiment.parameters))  # in a notebook

Altair describes the figure and Vega draws it in the reader's browser, without a kernel. The pick there
follows the rule of `fairnb.methods.pick.pick`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from html import escape
from typing import Any

import altair as alt
import pandas as pd
import torch
from torch import Tensor

from fairnb.book.tables import readable
from fairnb.data import Faces
from fairnb.features import Features
from fairnb.heads import Scorer
from fairnb.methods import METHODS, Search
from fairnb.methods.pick import ROUNDING
from fairnb.metrics import (
    accuracy,
    false_positive_rate,
    lowest_rate,
    rate_gap,
    true_positive_rate,
    underestimation_index,
    underestimation_score,
)
from fairnb.run.parameters import Parameters

SLIDERS = (  # a parameter, its highest value and step there, and the words before it
    ("tolerance", 0.1, 0.005, "Accuracy that may be lost "),
    ("max_fpr_gap", 1.0, 0.01, "False positive rates differ by "),
    ("min_recall", 1.0, 0.01, "Recall of every group from "),
)
WIDTH, STEP = 220, 16  # pixels of a panel, which fits a phone with its axis, and of a label's row
NAME, BARS = 130, 60  # pixels of a group's or label's name, and of a group's bars with the room around them
GRID = "#88888855"  # visible on white and on black
DESCRIPTION = "The chosen label's front, its models on test, their underestimation scores by group, and every label"
STYLE = """<style>
:root { color-scheme: light; --paper: #ffffff; --ink: #222832; }
:root[data-theme="dark"] { color-scheme: dark; --paper: #121212; --ink: #ced6dd; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px sans-serif; }
text { fill: var(--ink); }
g:focus-visible { outline: 2px solid currentcolor; }
@media print { body { zoom: 0.6; } } /* so that it fits on a page; the page around gives the frame as much height */
#vis.vega-embed { display: flex; flex-direction: column-reverse; align-items: stretch; padding: 0; }
.vega-bind-name { display: inline-block; min-width: 13em; }
.vega-bindings select, .vega-bindings input { font: inherit; margin: 0.3em 0; max-width: 10em; vertical-align: middle; }
.vega-bindings input { width: 7em; margin-right: 0.5em; }
</style>"""
# The theme is the surrounding page's, or the reader's system's. In the last panel, arrow keys move the choice of the list.
SCRIPT = """<script>
let book = null;
try { book = parent === window ? null : parent.document.documentElement; } catch { /* a page that may not be read */ }
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => {
  document.documentElement.dataset.theme = book?.dataset.theme ?? (dark.matches ? "dark" : "light");
};
dark.addEventListener("change", follow);
if (book) new MutationObserver(follow).observe(book, { attributeFilter: ["data-theme"] });
follow();

function reachRows() {
  const rows = document.querySelector("g.concat_3_group"), list = document.querySelector("select");
  for (const [name, value] of Object.entries({ tabindex: 0, role: "group", "aria-label": "Every label: arrow keys choose" }))
    rows.setAttribute(name, value);
  rows.addEventListener("keydown", (event) => {
    const last = list.length - 1, here = list.selectedIndex;
    const to = { ArrowUp: Math.max(here - 1, 0), ArrowDown: Math.min(here + 1, last), Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    list.selectedIndex = to;
    list.dispatchEvent(new Event("change"));
    [...rows.querySelectorAll("text")].find((name) => name.textContent === list.value)?.scrollIntoView({ block: "nearest" });
  });
}
</script>"""
COLUMNS = 8  # of a table from `candidates` before the groups'
KINDS = ("base model", "label threshold", "multi-task pick")


def candidates(
    search: Search, thresholds: Tensor, features: dict[str, Features], heads: Tensor, searched: Tensor, faces: Faces
) -> pd.DataFrame:
    """Every candidate of each label's pick, scored on validation, where the pick is made, and on test.

    The multi-task search is of the labels `searched`, bool [L]; `heads`, [L, D + 1], are the base model's, `thresholds`
    those with one threshold per label. Returns columns label, kind, uei_valid, accuracy_valid, fpr_gap_valid (the largest
    gap of false positive rates between groups), recall_valid (the lowest true positive rate of a group), uei, accuracy, and
    each group's US on test under its name, which may be that of another column. A label's first row is the base model, its
    second the threshold, the others the front by rising UEI.
    """
    names = list(map(readable, faces.label_names))
    names = names if len(set(names)) == len(names) else list(faces.label_names)
    tables, fronts = [], zip(search.fronts.along(), search.fronts.positions, strict=True)
    for label, (places, front) in zip(searched.nonzero().flatten(), fronts, strict=True):
        models = torch.cat([heads[label].unsqueeze(0), thresholds[label].unsqueeze(0), front[places].to(heads)]).unsqueeze(0)
        parts = (features[split] for split in ("valid", "test"))
        valid, test = (Scorer(replace(part, labels=part.labels[:, label].unsqueeze(1)))(models)[0] for part in parts)
        columns = {
            "label": names[label], "kind": [*KINDS[:2], *[KINDS[2]] * len(places)],
            "uei_valid": underestimation_index(valid), "accuracy_valid": accuracy(valid),
            "fpr_gap_valid": rate_gap(false_positive_rate(valid)), "recall_valid": lowest_rate(true_positive_rate(valid)),
            "uei": underestimation_index(test), "accuracy": accuracy(test),
        }  # fmt: skip
        table = pd.DataFrame({k: v.tolist() if isinstance(v, Tensor) else v for k, v in columns.items()})
        by_group = pd.DataFrame(underestimation_score(test).tolist(), columns=list(faces.group_names))
        tables.append(pd.concat([table, by_group], axis=1))
    return pd.concat(tables, ignore_index=True)


def explorer(table: pd.DataFrame, given: Parameters) -> alt.VConcatChart:
    """The chart of a table from `candidates`; a list, or a click on a row, chooses a label, sliders the pick's conditions.

    The sliders start at a run's values. `no_label_worse` needs none: a label's pick never has a higher UEI on validation.
    """
    groups: list[Any] = [readable(name) for name in table.columns[COLUMNS:]]
    fields: list[Any] = [f"us{place}" for place in range(len(groups))]  # Vega reads a dot in a name as a path
    named = alt.LookupData(pd.DataFrame({"field": fields, "group": groups}), key="field", fields=["group"])
    table = table.set_axis([*table.columns[:COLUMNS], *fields], axis=1)
    labels = sorted(table.label.unique())
    label = alt.selection_point(
        name="chosen", fields=["label"], value=labels[0], toggle=False, clear=False, on="click",
        bind=alt.binding_select(options=labels, name="Label "),
    )  # fmt: skip
    sliders = []
    for name, highest, step, words in SLIDERS:
        value = getattr(given, name)
        slider = alt.binding_range(min=0, max=max(highest, value), step=step, name=words)
        sliders.append(alt.param(name=name, value=value, bind=slider))
    # As `pick`: of the models that meet all conditions the lowest UEI on validation, of equals the most accurate; else the
    # base model.
    meets = f"datum.accuracy_valid >= datum.least - tolerance - {ROUNDING}"
    meets += f" && datum.fpr_gap_valid <= max_fpr_gap + {ROUNDING} && datum.recall_valid >= min_recall - {ROUNDING}"
    rank = f"datum.kind == '{KINDS[1]}' ? 0 : datum.meets ? 2 : datum.kind == '{KINDS[0]}' ? 1 : 0"
    order: list[Any] = [alt.SortField("rank", "descending"), alt.SortField("uei_valid")]
    order += [alt.SortField("accuracy_valid", "descending")]
    every = alt.Chart(table.assign(least=table.label.map(table[table.kind == KINDS[0]].set_index("label").accuracy_valid)))
    every = every.transform_calculate(meets=meets).transform_calculate(rank=rank)
    first = f"datum.kind == '{KINDS[2]}' ? [datum.kind] : [datum.kind, '{KINDS[2]}']"  # a pick may be the base model
    marked = every.transform_window(place="row_number()", sort=order, groupby=["label"])
    marked = marked.transform_calculate(shown=f"datum.place > 1 ? [datum.kind] : {first}").transform_flatten(["shown"])
    marked = marked.transform_filter(f"datum.shown != '{KINDS[2]}' || datum.place == 1")
    of_label = marked.transform_filter(label)
    colours = [METHODS[name].colour for name in ("base", "label thresholds", "multi-task")]
    colour = alt.Color("shown:N", title=None).scale(domain=list(KINDS), range=colours)
    shape = alt.Shape("shown:N", title=None).scale(domain=list(KINDS), range=["circle", "square", "diamond"])
    legend: Any = {"orient": "top", "columns": 1, "symbolSize": 80}
    numbers = [alt.Tooltip(f"{name}:Q", format=".3f") for name in table.columns[2:COLUMNS]]
    place: dict[str, Any] = {"x": alt.X("accuracy_valid:Q", title="accuracy on validation").scale(zero=False)}
    place |= {"y": alt.Y("uei_valid:Q", title="UEI on validation")}
    pale: Any = alt.condition("datum.meets", alt.value(0.8), alt.value(0.25))
    front = every.transform_filter(label).mark_point(filled=True, size=18, color="#808080").encode(**place, opacity=pale)
    least = every.transform_filter(label).transform_aggregate(least="max(least)")
    limit = least.transform_calculate(limit="datum.least - tolerance").mark_rule(strokeDash=[4, 3], color="#808080")
    points = of_label.mark_point(filled=True, size=110, opacity=1).encode(
        **place, color=colour.legend(**legend), shape=shape.legend(**legend), tooltip=["shown:N", *numbers]
    )
    stays = of_label.transform_filter(f"datum.shown == '{KINDS[2]}' && datum.rank < 2").mark_text(
        align="left", x=0, y=-8, fontSize=12, text="no model meets this: base model stays"
    )
    top = alt.layer(front, limit.encode(x="limit:Q"), points, stays)
    top = top.properties(width=WIDTH, height=230, title="The front of the label")
    method = alt.Y("shown:N", title=None, sort=list(KINDS))
    of_group = of_label.transform_fold(fields, as_=["field", "US"]).transform_lookup("field", named).encode(
        alt.X("US:Q", title="US on test (1 is ideal)"), alt.Y("group:N", title=None, sort=groups).axis(labelLimit=NAME),
        yOffset=alt.YOffset("shown:N", sort=list(KINDS)), color=colour.legend(None),
        tooltip=["shown:N", "group:N", alt.Tooltip("US:Q", format=".3f")],
    )  # fmt: skip
    never = of_group.transform_filter("datum.US === 0")  # has no visible bar
    bars = [of_group.mark_bar(), never.mark_point(filled=True, size=40, opacity=1)]
    bars += [never.mark_text(align="left", dx=7, fontSize=11, text="never predicted")]
    ideal = alt.Chart(pd.DataFrame({"US": [1.0]})).mark_rule(color="red").encode(x="US:Q")
    second = alt.layer(*bars, ideal).properties(width=WIDTH, height=alt.Step(STEP), title="Underestimation score by group")
    text = "'UEI ' + format(datum.uei, '.3f') + ', accuracy ' + format(datum.accuracy, '.3f')"
    third = of_label.transform_calculate(words=text).mark_text(align="left", dx=4, fontSize=12)
    third = third.encode(method, x=alt.value(0), text="words:N")
    third = third.properties(width=WIDTH, height=alt.Step(20), title="On test")
    rows = marked.mark_point(filled=True, size=60, opacity=1).encode(
        alt.X("uei:Q", title="UEI on test (0 is ideal)"), alt.Y("label:N", title=None).axis(labels=False, ticks=False),
        color=colour.legend(None), shape=shape.legend(None),
        tooltip=["label:N", "shown:N", *numbers],
    )  # fmt: skip
    row = marked.transform_aggregate(groupby=["label"]).mark_bar(color="#3366cc", cursor="pointer").encode(
        alt.Y("label:N"), x=alt.value(0), x2=alt.value(WIDTH),
        opacity=alt.condition(label, alt.value(0.25), alt.value(0.0)),
    ).add_params(label)  # fmt: skip
    written = marked.transform_aggregate(groupby=["label"])
    written = written.mark_text(align="right", fontSize=12, limit=NAME, cursor="pointer")
    written = written.encode(alt.Y("label:N"), x=alt.value(-6), text="label:N", tooltip="label:N")
    fourth = alt.layer(row, rows, written).properties(width=WIDTH, height=alt.Step(STEP), title="Every label: choose a row")
    chart = alt.vconcat(top, third, second, fourth).add_params(*sliders)
    chart = chart.resolve_scale(color="independent", shape="independent")
    type_size = {"labelFontSize": 12, "titleFontSize": 12}
    chart = chart.configure_view(stroke=GRID).configure_axis(gridColor=GRID, **type_size).configure_legend(**type_size)
    return chart.properties(description=DESCRIPTION, background="transparent", padding=4)


def page(chart: alt.VConcatChart) -> str:
    """The chart as one self-contained HTML page, with 900 kB of Vega; the controls stand above it."""
    how: dict[str, Any] = {"embed_options": {"actions": False, "renderer": "svg"}, "json_kwds": {"cls": _InScript}}
    with alt.data_transformers.enable("default", max_rows=None):  # as many labels as there are
        text = str(chart.to_html(inline=True, **how))
    head = f'<meta name="viewport" content="width=device-width">\n<title>Pareto explorer</title>{STYLE}{SCRIPT}'
    text = text.replace("<html>\n<head>", f'<html lang="en">\n<head>\n{head}', 1)
    return text.replace(".catch(console.error);\n</script>", ".then(reachRows).catch(console.error);\n</script>", 1)


class _InScript(json.JSONEncoder):
    """Writes JSON that stands inside a script of a page, which `</script>` in a name would end."""

    def encode(self, o: Any) -> str:
        return super().encode(o).replace("<", "\\u003c")


def frame(table: pd.DataFrame, given: Parameters) -> str:
    """`explorer` in a frame, for a notebook's output: it looks the same in JupyterLab and the book, without a kernel."""
    height = 610 + 40 * len(SLIDERS) + STEP * table.iloc[:, 0].nunique() + BARS * (len(table.columns) - COLUMNS)
    style = f"width: 100%; max-width: {WIDTH + 160}px; --height: {height}px; "
    style += "height: var(--height); border: 0"  # a printed page takes less
    text = escape(page(explorer(table, given)))
    return f'<iframe title="Pareto explorer" style="{style}" srcdoc="{text}"></iframe>'
