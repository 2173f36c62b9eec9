"""What pages are made of, before Jupyter Book and without a browser; `test_site.py` looks at them in one."""

import html
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import nbformat
import pandas as pd
import pytest
import torch
import vl_convert

from fairnb.book.explorer import COLUMNS, KINDS, candidates, explorer, frame, page
from fairnb.book.pages import about, describe_figures, put_below_title
from fairnb.book.tables import shown
from fairnb.features import Features
from fairnb.heads import Heads
from fairnb.methods import Problem, pick_each
from fairnb.methods.multi_task import multi_task
from fairnb.methods.thresholds import label_thresholds
from fairnb.metrics import accuracy, underestimation_index, underestimation_score
from fairnb.run.parameters import Conditions, Parameters, Settings, Swarm

GIVEN = Parameters(tolerance=0.03)


@pytest.fixture(scope="module")
def found():
    """Features, heads, a search on two of three labels, thresholds, and the explorer's table."""
    draw = torch.Generator().manual_seed(0)

    def split(images):
        x = torch.randn(images, 5, generator=draw)
        group = torch.randint(2, (images,), generator=draw)
        return Features(x, x[:, :3] + 0.5 * torch.randn(images, 3, generator=draw) > 0.7, group, 2)

    features = {"valid": split(200), "test": split(150)}
    heads = torch.cat([torch.eye(3, 5), torch.full((3, 1), -1.3)], dim=1)
    searched = torch.tensor([True, False, True])
    problem = Problem(features["valid"], heads, searched)
    search = multi_task(problem, Swarm(particles=20, iterations=15), Settings())
    thresholds = label_thresholds(problem).heads.last
    faces: Any = SimpleNamespace(label_names=["A", "B", "No_Beard"], group_names=("women", "men"))
    return features, heads, search, thresholds, candidates(search, thresholds, features, heads, searched, faces)


def test_the_explorers_table_is_what_the_models_answer(found):
    features, heads, search, thresholds, table = found
    assert table.label.unique().tolist() == ["A", "No Beard"]
    for s, (label, name) in enumerate([(0, "A"), (2, "No Beard")]):
        rows = table[table.label == name].reset_index(drop=True)
        assert rows.kind.tolist() == [*KINDS[:2], *[KINDS[2]] * int(search.fronts.mask[s].sum())]
        for row, model in ((0, heads), (1, thresholds)):
            for column, split in (("uei_valid", "valid"), ("uei", "test")):
                assert rows[column][row] == pytest.approx(
                    float(underestimation_index(Heads(model.unsqueeze(0)).tables(features[split]))[label])
                )
        picked = rows.iloc[search.picked[s] + 1 if search.picked[s] else 0]  # the threshold stands between
        counts = search.heads.tables(features["test"])[label]
        assert picked.accuracy == pytest.approx(float(accuracy(counts)))
        assert picked[["women", "men"]].tolist() == pytest.approx(underestimation_score(counts).tolist())


@pytest.mark.parametrize(
    "given",
    [
        {"tolerance": 0.0}, {"tolerance": 0.1}, {"max_fpr_gap": 0.005}, {"min_recall": 0.75, "tolerance": 0.02},
        {"min_recall": 0.7, "max_fpr_gap": 0.05}, {"min_recall": 0.99},
    ],
    ids=str,
)  # fmt: skip
def test_the_explorer_picks_as_the_search_does(found, given):
    """As Vega draws it: each label's pick on test, and whether it says that nothing meets what is asked of the first."""
    features, heads, search, _, table = found
    given = Parameters(**given)
    problem = Problem(features["valid"], heads, torch.tensor([True, False, True]), tolerance=given.tolerance)
    again = pick_each(replace(problem, conditions=given.part(Conditions)), search.fronts)
    tables = again.heads.tables(features["test"])
    uei, right = underestimation_index(tables).tolist(), accuracy(tables).tolist()
    svg = vl_convert.vegalite_to_svg(explorer(table, given).to_dict())
    drawn = re.findall(rf'aria-label="UEI on test \(0 is ideal\): ([\d.]+); label: ([\w ]+); shown: {KINDS[2]}', svg)
    assert {label: float(value) for value, label in drawn} == pytest.approx({"A": uei[0], "No Beard": uei[2]})
    assert f"shown: {KINDS[2]}; words: UEI {uei[0]:.3f}, accuracy {right[0]:.3f}" in svg
    assert ("no model meets this" in svg) != again.met[0]


def test_the_explorer_brings_all_it_needs(found):
    text = page(explorer(found[-1], GIVEN))
    assert not re.search(r"<(script|link)[^>]+(src|href)=", text)
    assert len(text) < 2_000_000
    inside = frame(found[-1], GIVEN)
    assert inside.startswith("<iframe title=")
    assert inside.count("<") == 2  # what is inside is escaped


def test_the_explorer_has_bars_of_every_group_whatever_its_name(found):
    names = ["Wearing.Hat", "a[0]", 'it\'s \\ "so"', "0", "NA", "Beard<short", *map(str, range(1, 9))]
    table = pd.concat([found[-1].iloc[:, :COLUMNS], pd.DataFrame(0.5, index=found[-1].index, columns=names)], axis=1)
    svg = vl_convert.vegalite_to_svg(explorer(table, GIVEN).to_dict())
    bars = re.findall(r'aria-label="US on test \(1 is ideal\): 0.5; group: ([^;]*(?:&\w+;[^;]*)*); shown', svg)
    assert {html.unescape(name): bars.count(name) for name in bars} == dict.fromkeys(names, 3)  # a bar per model
    two, many = (int(re.findall(r"--height: (\d+)px", frame(t, GIVEN))[0]) for t in (found[-1], table))
    assert many - two == 12 * 60
    assert many > float(re.findall(r'height="(\d+)"', svg)[0]) + 105  # and the controls above


def test_names_are_no_tags():
    table = pd.DataFrame({"Beard<short": ["R&B", "a_<b>", "-0.010 (-0.012 to +0.001)"]})
    page = shown(table).to_html()
    for text in (">Beard&lt;short<", ">R&amp;B<", ">a &lt;b&gt;<", 'nowrap">(-0.012 to +0.001)</span>'):
        assert text in page


def test_columns_of_numbers_are_set_to_the_right():
    columns = {
        "label": (["Bald", "Young"], "left"), "UEI": ([0.1, 1e-9], "right"), "images": ([3, 4], "right"),
        "change": (["-0.010 (-0.012 to +0.001)", "–"], "right"), "worsened": (["0 of 30", "1 of 30"], "right"),
        "setting": (["0.01", "as the paper"], "left"), "needs the group": (["yes", "no"], "left"),
        "missing": ([float("nan"), 0.5], "right"),
    }  # fmt: skip
    page = shown(pd.DataFrame({name: values for name, (values, _) in columns.items()})).to_html()
    for place, (_, side) in enumerate(columns.values()):
        assert re.search(rf"\.col{place} {{\s*text-align: {side};", page)


def test_a_page_says_of_which_run_it_is():
    run = {
        "begun": "2026-11-03T11:35:09+00:00", "device": {"type": "cuda", "name": "NVIDIA H200"}, "git_revision": "abc123",
        "parameters": {"seed": 7},
    }  # fmt: skip
    line = about("03_dynamic_weighting", run)
    for words in ("03 November 2026", "seed 7", "cuda (NVIDIA H200)", "revision abc123"):
        assert words in line
    assert "github.com/fairnb/fairnb/blob/main/notebooks/03_dynamic_weighting.ipynb" in line
    assert "labpath=notebooks%2F03_dynamic_weighting.ipynb" in line


def test_figures_are_described_by_their_caption_unless_they_have_better_words():
    caption = "UEI of {doc}`04_multi_task_fix`, *mean* of $L$ labels."
    cells = [
        nbformat.v4.new_code_cell("a", metadata={"mystnb": {"figure": {"caption": caption}}}),
        nbformat.v4.new_code_cell("b", metadata={"mystnb": {"figure": {"caption": caption}, "image": {"alt": "dots"}}}),
        nbformat.v4.new_code_cell("c"),
    ]
    describe_figures(nbformat.v4.new_notebook(cells=cells))
    assert cells[0].metadata["mystnb"]["image"]["alt"] == "UEI of 04_multi_task_fix, mean of L labels."
    assert cells[1].metadata["mystnb"]["image"]["alt"] == "dots"
    assert "mystnb" not in cells[2].metadata


def test_nothing_below_a_title_leaves_the_page_as_it_is():
    written = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# T\n\nText.")])
    put_below_title(written, "\n")
    assert written.cells[0].source == "# T\n\nText."
