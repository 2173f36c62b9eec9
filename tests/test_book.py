"""What prose is made of: intervals as a reader sees them."""

import re

import pandas as pd
import pytest
import torch

from fairnb import book, tables
from fairnb.tables import group_use, with_range


def triple(middle, low, high, method="a"):
    return {"method": method, "uei": middle, "uei_low": low, "uei_high": high}


def test_where_a_prediction_gets_the_group_from():
    assert group_use("fairlearn, equal odds") == "given"
    assert group_use("multi-task after reweighing (noise=0)") == "inferred"
    assert group_use("multi-task, held-out pick") == "inferred"
    assert group_use("label thresholds (tolerance=0.1)") == "unused"
    assert set(tables.METHODS) <= set(tables.GROUP)
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
