"""What prose is made of: sentences that are checked, words that numbers choose, intervals as a reader sees them."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from fairnb.book import plots
from fairnb.book import prose as book
from fairnb.book.prose import ClaimError, claim, counted, of_recipe, out_of, sign, spelled, verdict
from fairnb.book.tables import of_pick, with_range
from fairnb.methods import METHODS, group_use
from fairnb.metrics import underestimation_index

# Sentences that tell methods or settings apart, or say that nothing does.
COMPARES = re.compile(
    r"\b(has|have|keeps?|costs?|leaves?) (an? |the |no |a much )?(lower|higher|more|less) (UEI|accuracy)|\bno higher UEI"
    r"|cannot be told|\btest cannot tell|UEI is (lower|higher)|accuracy is (lower|higher)|\bwidens?\b|beyond chance[,.]"
)
NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def triple(middle, low, high, method="a"):
    return {"method": method, "uei": middle, "uei_low": low, "uei_high": high}


def test_a_claim_fails_with_its_words():
    claim(True, "two is more than one")
    with pytest.raises(ClaimError, match="do not bear out what the page says: 'one is more than two'"):
        claim(False, "one is more than two")


def test_a_picks_row_by_hand():
    counts = torch.tensor(
        [
            [[[8, 2], [4, 6]], [[9, 1], [2, 8]]],  # false positive rates 0.2 and 0.1, recall 0.6 and 0.8
            [[[3, 4], [9, 1]], [[10, 0], [5, 5]]],  # 7 negatives are too few for a rate; recall 0.1 and 0.5
            [[[10, 0], [10, 0]], [[10, 0], [0, 0]]],  # no positives; false positive rates 0
        ]
    )
    row = of_pick([0, 3, 0], counts)
    assert row.pop("UEI") == pytest.approx(float(underestimation_index(counts).mean()))
    assert row.pop("keep the base") == "2 of 3"
    assert row == {"accuracy": pytest.approx((31 / 40 + 19 / 37 + 20 / 30) / 3), "gap of FPR": 0.05, "lowest recall": 0.35}
    assert of_pick([0], counts)["keep the base"] == "3 of 3"  # all searched together
    assert of_pick([4], counts)["keep the base"] == "0 of 3"


def words_of(path):
    """A chapter's text, and the words that its hidden cells claim."""
    cells = json.loads(path.read_text())["cells"]
    text = " ".join(" ".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown").split())
    hidden = ["".join(cell["source"]) for cell in cells if "remove-cell" in cell["metadata"].get("tags", [])]
    calls = [node for cell in hidden for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Call)]
    return text, [ast.literal_eval(call.args[1]) for call in calls if getattr(call.func, "id", "") == "claim"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_words_of_a_claim_stand_on_its_page(path):
    text, claims = words_of(path)
    assert not [words for words in claims if words not in text]
    assert path.read_text().count("claim(") == len(claims)  # none in a cell that is shown


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_sentence_that_compares_is_a_claim_or_has_its_numbers_in_it(path):
    text, claims = words_of(path)
    for sentence in re.split(r"(?<=[.?!:;]) ", text):
        if COMPARES.search(sentence) and "{glue:text}" not in sentence:
            assert any(words in sentence or sentence in words for words in claims), sentence


@pytest.mark.parametrize(
    ("low", "high", "side", "words"),
    [
        (-0.2, -0.1, -1, "is lower"),
        (-0.1, 0.1, 0, "cannot be told apart"),
        (0.0, 0.1, 0, "cannot be told apart"),
        (0.1, 0.2, 1, "is higher"),
    ],
)
def test_an_interval_chooses_its_words(low, high, side, words):
    table = pd.DataFrame([triple(0.0, low, high), triple(0.0, 7.0, 8.0, "b")]).set_index("method")
    assert sign(table, "a") == side
    assert verdict(table, "a") == words


def test_counts_in_words():
    assert [spelled(number) for number in (0, 1, 12, 13, 1300)] == ["none", "one", "twelve", "13", "1,300"]
    assert [counted(number) for number in (0, 1, 2, 13)] == ["no label", "one label", "two labels", "13 labels"]
    assert out_of(0, 30) == "None of 30 labels has"
    assert out_of(1, 30, "is", "are") == "One of 30 labels is"
    assert out_of(2, 30) == "Two of 30 labels have"
    assert out_of(1, 1) == "One of one label has"


def test_saved_results_say_of_which_recipe_they_are():
    own = {
        "data": "drawn", "drawn": [6000, 2000, 3000], "backbone": "resnet18", "weights": "", "hidden": 512, "image_size": 64,
        "epochs": 8, "batch_size": 64, "learning_rate": 5e-4,
    }  # fmt: skip
    words = "resnet18 on 64×64 pixels, eight epochs on 6,000 drawn faces"
    assert of_recipe(own, own | {"seed": 3}) == f"{words}, as in this run"
    assert of_recipe(own, own | {"epochs": 5, "hidden": 64}) == f"{words}; this run has hidden = 64, epochs = 5"
    assert of_recipe(own, own | {"data": "celeba"}) == f"{words}; this run has other data"
    photographs = own | {"data": "celeba", "drawn": [1, 2, 3]}
    assert (
        of_recipe(photographs, photographs | {"drawn": [4, 5, 6]})
        == "resnet18 on 64×64 pixels, eight epochs, as in this run"
    )


def test_changes_of_labels_are_filled_where_they_count_after_correction():
    rows = [
        ("x", "A", 0.2, True, False),
        ("x", "B", -0.1, False, False),
        ("y", "B", -0.3, False, True),
        ("y", "A", 0.0, False, False),
    ]
    table = pd.DataFrame(rows, columns=["method", "label", "change", "worsened", "mended"])
    figure: Any = plots.label_changes(table.assign(low=table.change - 0.05, high=table.change + 0.05))
    assert [axis.get_title() for axis in figure.axes] == ["x", "y"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["A", "B"]
    at = [[group.get_offsets().tolist() for group in axis.collections[1:]] for axis in figure.axes]  # lower, open, higher
    assert at == [[[], [[-0.1, 1]], [[0.2, 0]]], [[[-0.3, 1]], [[0.0, 0]], []]]


def test_where_a_prediction_gets_the_group_from():
    assert group_use("fairlearn, equal odds") == "given"
    assert group_use("multi-task after reweighing (noise=0)") == "inferred"
    assert group_use("multi-task, held-out pick") == "inferred"
    assert group_use("label thresholds (tolerance=0.1)") == "unused"
    assert all(group_use(f"{name} (noise=0)") == method.group for name, method in METHODS.items())
    with pytest.raises(ValueError, match="did you mean 'soft UEI'"):
        group_use("soft UE")


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        ((-0.0104, -0.0123, 0.001), "-0.010 (-0.012 to +0.001)"),
        ((-0.00014, -0.0026, 0.0023), "0.000 (-0.003 to +0.002)"),  # no sign for what is shown as 0
        ((0.0032, 0.00044, 0.0061), "+0.0032 (+0.0004 to +0.0061)"),
        ((-0.0032, -0.0061, -0.00044), "-0.0032 (-0.0061 to -0.0004)"),
        ((0.002, -0.00003, 0.004), "+0.00200 (-0.00003 to +0.00400)"),
        ((0.002, 0.0, 0.004), "+0.002 (0.000 to +0.004)"),
        ((0.1, 1e-9, 0.2), "+0.100000 (+0.000001 to +0.200000)"),
        ((float("nan"),) * 3, "–"),
    ],
)
def test_an_interval_as_a_reader_sees_it(interval, text):
    table = pd.DataFrame([triple(*interval)])
    assert with_range(table, "uei", signed=True).tolist() == [text]


def test_a_printed_interval_excludes_zero_exactly_when_it_does():
    draw = torch.Generator().manual_seed(0)
    size = 10 ** (-9 * torch.rand(4000, 2, generator=draw, dtype=torch.float64))
    sides = torch.randint(-1, 2, (4000, 2), generator=draw)  # 0 among them
    for low, high in (size * sides).sort(dim=1).values.tolist():
        text = with_range(pd.DataFrame([triple((low + high) / 2, low, high)]), "uei", signed=True).item()
        ((first, last),) = re.findall(r"\((\S+) to (\S+)\)", text)
        assert (float(first) > 0, float(last) < 0) == (low > 0, high < 0), text


def test_a_change_is_glued_as_a_reader_sees_it(monkeypatch):
    stored = {}
    monkeypatch.setattr(book, "_glue", lambda key, value, display: stored.update({key: value}))
    row = {"method": "x", "uei": -0.0004, "uei_low": -0.02, "uei_high": 0.01}
    row |= {"accuracy": 0.1, "accuracy_low": 0.0, "accuracy_high": 0.2}
    book.glue_change("x", pd.DataFrame([row]).set_index("method"), "x")
    assert stored == {"x_uei": "0.000 (-0.020 to +0.010)", "x_accuracy": "+0.100 (0.000 to +0.200)"}
