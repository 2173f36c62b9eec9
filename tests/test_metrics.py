import math

import numpy as np
import pytest
import torch
from fairlearn.metrics import MetricFrame, false_positive_rate, selection_rate, true_positive_rate
from sklearn.metrics import accuracy_score

from fairnb import metrics

# Ten people in each group. Group 0: two carry the label, one of them is predicted, and so is one other.
# Group 1: five carry it, four of them are predicted and nobody else.
HAND = torch.tensor([[[7, 1], [1, 1]], [[5, 0], [1, 4]]])  # n[g, y, ŷ]


def random_case(n=500, groups=2, rows=(), seed=0):
    draw = torch.Generator().manual_seed(seed)
    return (
        torch.rand(*rows, n, generator=draw) < 0.3,
        torch.rand(*rows, n, generator=draw) < 0.4,
        torch.randint(groups, (n,), generator=draw),
    )


def test_values_by_hand():
    assert metrics.accuracy(HAND).item() == (7 + 1 + 5 + 4) / 20
    assert metrics.underestimation_score(HAND).tolist() == [1.0, 0.8]
    assert metrics.true_positive_rate(HAND).tolist() == [0.5, 0.8]
    assert metrics.false_positive_rate(HAND).tolist() == [1 / 8, 0.0]
    # joint shares of (value, group) in twentieths: predicted 8, 2, 6, 4 and true 8, 2, 5, 5
    overlap = (8 + 2 + math.sqrt(6 * 5) + math.sqrt(4 * 5)) / 20
    assert metrics.underestimation_index(HAND).item() == pytest.approx(math.sqrt(1 - overlap), rel=1e-12)


def test_index_is_zero_for_equal_distributions_and_one_for_disjoint_ones():
    assert metrics.underestimation_index(torch.tensor([[[5, 2], [2, 1]], [[0, 0], [0, 9]]])).item() == 0.0
    assert metrics.underestimation_index(torch.tensor([[[0, 6], [0, 0]], [[0, 4], [0, 0]]])).item() == 1.0


def test_table_counts_each_case():
    pred, target, group = torch.tensor([1, 0, 1, 1, 0]), torch.tensor([1, 1, 0, 1, 0]), torch.tensor([0, 0, 0, 1, 1])
    assert metrics.contingency_table(pred, target, group).tolist() == [[[0, 1], [1, 1]], [[1, 0], [0, 1]]]


@pytest.mark.parametrize("share", [0.9, 1e-3, float("nan"), float("inf")])
def test_shares_are_no_groups(share):
    yes = torch.ones(2, dtype=torch.bool)
    with pytest.raises(ValueError, match=f"group holds {share:g}: groups are whole numbers"):
        metrics.contingency_table(yes, yes, torch.tensor([0, share]))
    assert metrics.contingency_table(yes, yes, torch.tensor([0.0, 1.0])).tolist() == [[[0, 0], [0, 1]]] * 2


@pytest.mark.parametrize("groups", [1, 2, 3, 5])
def test_agrees_with_fairlearn(groups):
    pred, target, group = random_case(groups=groups)
    table = metrics.contingency_table(pred, target, group)
    frame = MetricFrame(
        metrics={"sel": selection_rate, "tpr": true_positive_rate, "fpr": false_positive_rate, "acc": accuracy_score},
        y_true=target.int().numpy(), y_pred=pred.int().numpy(), sensitive_features=group.numpy(),
    )  # fmt: skip
    truth = MetricFrame(
        metrics=selection_rate, y_true=target.int().numpy(), y_pred=target.int().numpy(), sensitive_features=group.numpy()
    )
    us = frame.by_group["sel"] / truth.by_group
    np.testing.assert_allclose(metrics.underestimation_score(table), us, rtol=1e-12)
    np.testing.assert_allclose(metrics.true_positive_rate(table), frame.by_group["tpr"], rtol=1e-12)
    np.testing.assert_allclose(metrics.false_positive_rate(table), frame.by_group["fpr"], rtol=1e-12)
    assert metrics.accuracy(table).item() == pytest.approx(frame.overall["acc"])
    # Equation 2 from fairlearn's rates: P[ŷ=1, s] = selection rate × P[s]
    share = np.bincount(group) / len(group)
    p, q = frame.by_group["sel"].to_numpy(), truth.by_group.to_numpy()
    overlap = (share * (np.sqrt(p * q) + np.sqrt((1 - p) * (1 - q)))).sum()
    assert metrics.underestimation_index(table).item() == pytest.approx(math.sqrt(1 - overlap), rel=1e-9)


def test_leading_dimensions_broadcast():
    pred, target, group = random_case(rows=(4, 3))
    table = metrics.contingency_table(pred, target[0], group)
    assert table.shape == (4, 3, 2, 2, 2)
    for i in range(4):
        for j in range(3):
            assert torch.equal(table[i, j], metrics.contingency_table(pred[i, j], target[0, j], group))


def test_tables_add_up_and_order_does_not_matter():
    pred, target, group = random_case(n=301)
    whole = metrics.contingency_table(pred, target, group, 2)
    parts = [metrics.contingency_table(pred[s], target[s], group[s], 2) for s in (slice(0, 100), slice(100, 301))]
    assert torch.equal(sum(parts[1:], parts[0]), whole)
    order = torch.randperm(301, generator=torch.Generator().manual_seed(1))
    assert torch.equal(metrics.contingency_table(pred[order], target[order], group[order]), whole)
    assert whole.dtype == torch.int64
    assert int(whole.sum()) == 301


def test_group_without_positives_is_not_a_number():
    table = torch.tensor([[[5, 1], [0, 0]], [[2, 2], [2, 2]]])
    assert metrics.underestimation_score(table).isnan().tolist() == [True, False]
    assert metrics.true_positive_rate(table).isnan().tolist() == [True, False]
    assert not metrics.underestimation_index(table).isnan()


def test_index_stays_within_its_bounds():
    draw = torch.Generator().manual_seed(3)
    tables = torch.randint(0, 1000, (2000, 3, 2, 2), generator=draw) * (torch.rand(2000, 3, 2, 2, generator=draw) < 0.6)
    index = metrics.underestimation_index(tables[tables.sum((1, 2, 3)) > 0])
    assert bool(((index >= 0) & (index <= 1)).all())


def test_bad_input_is_named():
    pred, target, group = random_case(n=10)
    with pytest.raises(ValueError, match="10, 10 and 9 samples"):
        metrics.contingency_table(pred, target, group[:9])
    with pytest.raises(ValueError, match="threshold it first"):
        metrics.contingency_table(torch.rand(10), target, group)
    with pytest.raises(ValueError, match=r"outside 0\.\.0"):
        metrics.contingency_table(pred, target, group, 1)
