"""Classifiers that are not ours: assessed and mitigated from arrays, tables and modules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.metrics import MetricFrame, false_positive_rate, selection_rate, true_positive_rate
from sklearn.metrics import average_precision_score
from torch import nn

from fairnb.methods import METHODS, Parameters, Problem
from fairnb.yours import Sample, assess, mitigate
from fairnb.yours.module import last_linear, with_head

GROUPS = np.array(["f", "m"])
NAMES = ["Bald", "Hat"]


def people(n: int, seed: int, labels: int = 2) -> dict[str, Any]:
    """Truth, group, scores that miss half of group m's positives, and group scores that tell the group."""
    draw = np.random.default_rng(seed)
    group = draw.integers(2, size=n)
    truth = draw.random((n, labels)) < [[0.3], [0.15]][0]
    scores = 2 * truth - 1.2 - 0.8 * group[:, None] * truth + 0.7 * draw.standard_normal((n, labels))
    told = (2 * group - 1 + 0.5 * draw.standard_normal(n)).astype(np.float32)
    return {"truth": truth, "group": GROUPS[group], "scores": scores.astype(np.float32), "group_scores": told}


# --- assess


def test_scores_by_hand():
    truth = [1, 1, 1, 1, 0, 0, 1, 1, 0, 0]
    prediction = [1, 1, 0, 0, 0, 0, 1, 1, 1, 0]
    found = assess(truth, prediction, ["f"] * 6 + ["m"] * 4, names=["Bald"], draws=0)
    assert found.groups[["group", "n", "positives", "predicted_positives"]].values.tolist() == [
        ["f", 6, 4, 2],
        ["m", 4, 2, 3],
    ]
    assert found.groups.us.tolist() == [0.5, 1.5]
    assert found.groups.tpr.tolist() == [0.5, 1.0]
    assert found.groups.fpr.tolist() == [0.0, 0.5]
    assert found.labels.verdict.item() == (
        "f: predicted 0.50 times as often as it occurs; m: predicted 1.50 times as often as it occurs"
    )
    assert found.labels.accuracy.item() == pytest.approx(0.7)
    assert found.groups.us_low.isna().all()


def test_rates_are_fairlearns():
    known = people(500, 0)
    found = assess(known["truth"], known["scores"], known["group"], names=NAMES, draws=0)
    metrics = {"tpr": true_positive_rate, "fpr": false_positive_rate, "share": selection_rate}
    for j, name in enumerate(NAMES):
        rows = found.groups[found.groups.label == name]
        theirs = MetricFrame(
            metrics=metrics, y_true=known["truth"][:, j], y_pred=known["scores"][:, j] > 0, sensitive_features=known["group"]
        ).by_group
        np.testing.assert_allclose(rows.tpr, theirs.tpr, rtol=1e-12)
        np.testing.assert_allclose(rows.fpr, theirs.fpr, rtol=1e-12)
        np.testing.assert_allclose(rows.predicted_positives / rows.n, theirs.share, rtol=1e-12)
        expected = average_precision_score(known["truth"][:, j], known["scores"][:, j])
        assert found.labels.average_precision[j] == pytest.approx(expected)


def test_whatever_holds_the_numbers():
    polars = pytest.importorskip("polars")
    known = people(300, 1)
    truth, scores = (pd.DataFrame(known[name], columns=NAMES) for name in ("truth", "scores"))
    group = pd.DataFrame({"sex": known["group"], "young": np.arange(300) % 2})
    plain = assess(truth, scores, group, draws=50)
    same = [
        assess(torch.tensor(known["truth"]), torch.tensor(known["scores"]), group, names=NAMES, draws=50),
        assess(polars.DataFrame(truth), polars.DataFrame(scores), polars.DataFrame(group), draws=50),
        assess(truth.astype(object), scores[["Hat", "Bald"]], dict(group), draws=50),
        assess(truth, torch.tensor(known["scores"]).double().float(), group.astype("category"), names=NAMES, draws=50),
        assess(2 * truth.astype(int) - 1, scores.astype(float), group, draws=50),
    ]
    for other in same:
        pd.testing.assert_frame_equal(other.groups, plain.groups)
        pd.testing.assert_frame_equal(other.labels, plain.labels, rtol=1e-6)
    assert plain.attributes == ["sex", "young"]
    assert list(plain.of("groups", "young").group.unique()) == ["not young", "young"]
    crossed = assess(truth, scores, group, draws=0, products=True)
    assert crossed.attributes[-1] == "sex and young"
    assert crossed.of("groups", "sex and young").n.sum() == 2 * 300


def test_probabilities_and_logits_predict_alike():
    known = people(300, 2)
    chance = 1 / (1 + np.exp(-known["scores"].astype(float)))
    one, other = (assess(known["truth"], scores, known["group"], draws=0) for scores in (known["scores"], chance))
    pd.testing.assert_frame_equal(one.groups, other.groups)
    assert "logits" in one.told[0]
    assert "probabilities" in other.told[0]
    cut = assess(known["truth"], known["scores"], known["group"], names=NAMES, threshold={"Hat": 0.5, "Bald": 0}, draws=0)
    assert cut.groups.predicted_positives[:2].tolist() == one.groups.predicted_positives[:2].tolist()
    assert cut.groups.predicted_positives[2:].sum() == (known["scores"][:, 1] > 0.5).sum()


def test_intervals_cover_what_is_there_and_say_so():
    """Of many samples of one population, about 95 in 100 intervals of US hold its US."""
    rows = []
    for seed in range(50):
        known = people(400, 100 + seed, labels=2)
        rows.append(assess(known["truth"], known["scores"], known["group"], draws=200, seed=seed).groups)
    table, whole = pd.concat(rows), people(200_000, 5)
    true = assess(whole["truth"], whole["scores"], whole["group"], draws=0).groups.set_index(["label", "group"]).us
    expected = true.loc[pd.MultiIndex.from_frame(table[["label", "group"]])].to_numpy()
    covered = ((table.us_low <= expected) & (expected <= table.us_high)).mean()
    assert 0.9 < covered < 0.99
    m = assess(whole["truth"], whole["scores"], whole["group"], names=NAMES, draws=100).labels.verdict[0]
    assert m.startswith(f"m: predicted {true.loc['label 0', 'm']:.2f} times as often as it occurs, 95 % ")


def test_images_of_one_person_count_together():
    known = people(400, 3)
    truth, scores, group = (np.repeat(known[name], 4, axis=0) for name in ("truth", "scores", "group"))
    person = np.repeat(np.arange(400), 4)
    alone, together, once = (
        assess(t, s, g, person=p, draws=400).groups
        for t, s, g, p in [
            (truth, scores, group, None),
            (truth, scores, group, person),
            (known["truth"], known["scores"], known["group"], None),
        ]
    )
    widths = [(table.us_high - table.us_low).mean() for table in (alone, together, once)]
    assert widths[0] == pytest.approx(widths[2] / 2, rel=0.1)
    assert widths[1] == pytest.approx(widths[2], rel=0.1)


def test_where_nothing_can_be_said():
    truth, group = np.zeros((40, 2), dtype=int), np.array(["f", "m"] * 20)
    truth[0, 0] = truth[::2, 1] = 1  # the first label has one positive, in f
    prediction = truth.copy()
    prediction[:, 1] = 0
    prediction[0, 0] = 1
    found = assess(truth, prediction, group, names=NAMES, draws=50)
    one = found.groups.set_index(["label", "group"])
    assert np.isnan(one.us["Bald", "m"])
    assert np.isnan(one.us_low["Bald", "f"])  # fewer than eight people
    assert one.us["Hat", "f"] == 0
    assert np.isnan(one.us_low["Hat", "f"])  # no resample changes it
    assert found.labels.verdict.tolist() == [
        "m: no positives, 0 predicted",
        "m: no positives, 0 predicted; f: never predicted, at 20 positives",
    ]
    assert found.told == ("predicted for no image: Hat",)
    assert found.below(0.8)[["label", "group"]].values.tolist() == [["Hat", "f"]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prediction": np.zeros((9, 2))}, r"truth 10 × 2, prediction 9 × 2, group group 10"),
        ({"prediction": np.zeros((10, 3))}, "truth has 2 labels, prediction 3"),
        (
            {"prediction": [[0.0, np.nan]] * 10},
            "10 values that are missing or no finite numbers, first in row 0, column 1",
        ),
        ({"prediction": [[0.0, np.inf]] * 10}, "10 values that are missing or no finite numbers"),
        ({"truth": [], "prediction": [], "group": []}, "truth is empty"),
        ({"truth": [[1, 2]] * 10}, "truth holds 1, 2: it must be 0 and 1"),
        ({"truth": [["yes", "no"]] * 10}, "truth holds 20 values that are missing"),
        ({"group": ["m"] * 10}, "group holds one value, 'm'"),
        ({"group": np.linspace(0, 1, 10)}, "say where its groups begin"),
        ({"prediction": np.zeros((10, 2))}, "every prediction of every label is 0"),
        ({"prediction": np.arange(20.0).reshape(10, 2), "kind": "probabilities"}, r"18 values that are not in 0\.\.1"),
        ({"kind": "logit"}, "kind='logit' must be one of"),
        ({"names": ["Bald"]}, "there are 1 names"),
        ({"names": ["Bald", "Bald"]}, "two labels are named 'Bald'"),
        ({"threshold": [0.1, 0.2, 0.3]}, "threshold has 3 values for 2 labels"),
        ({"threshold": {"Bald": 1}, "names": NAMES}, "differs in Hat"),
        ({"person": [1.0] * 9 + [np.nan]}, "person is missing for 1 images, first in row 9"),
    ],
)
def test_bad_arrays_are_named(changes, words):
    draw = np.random.default_rng(0)
    given = {"truth": np.eye(10, 2), "prediction": draw.standard_normal((10, 2)), "group": ["f", "m"] * 5} | changes
    with pytest.raises(ValueError, match=words):
        assess(**given)


def test_a_page_needs_no_network(tmp_path):
    known = people(200, 4)
    odd = ["<script>alert(1)</script>", "a|b$c$"]
    found = assess(
        known["truth"], known["scores"], {"sex": known["group"], "{glue}": np.arange(200) % 3}, names=odd, draws=50
    )
    found.to_html(tmp_path / "page.html", title="A & B")
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "A &amp; B" in page
    assert 'src="http' not in page
    assert page.count("data:image/png") == 4
    assert "By sex" in found._repr_html_()
    found.to_csv(tmp_path / "tables")
    written = pd.read_csv(tmp_path / "tables" / "groups.csv", float_precision="round_trip")
    pd.testing.assert_frame_equal(written, found.groups)


# --- mitigate


def split(n: int, seed: int, **chosen: Any) -> Sample:
    known = people(n, seed) | chosen
    return Sample(
        known["truth"], known["group"], names=NAMES, **{k: v for k, v in known.items() if k not in ("truth", "group")}
    )


def plain(n: int, seed: int) -> Sample:
    known = people(n, seed)
    return Sample(known["truth"], known["group"], scores=known["scores"], names=NAMES)


def test_scores_alone_give_thresholds():
    valid, test = plain(1500, 10), plain(1500, 11)
    found = mitigate(valid, test)
    assert found.method == "label thresholds"
    assert found.thresholds.shape == (2,)
    assert found.after.means.uei.item() < found.before.means.uei.item()
    scores = test.features.x
    assert torch.equal(found.predict(scores), scores > found.thresholds)
    # every threshold tried by hand on validation: none within the tolerance has a lower UEI
    for j in range(2):
        truth, score, sex = valid.features.labels[:, j].numpy(), valid.features.x[:, j].numpy(), valid.features.group.numpy()

        def judged(cut: float, truth=truth, score=score, sex=sex) -> tuple[float, float]:
            p = score > cut
            cells = [(np.mean(p & (sex == s)), np.mean(truth & (sex == s)), np.mean(sex == s)) for s in (0, 1)]
            uei = sum((a**0.5 - b**0.5) ** 2 + ((n - a) ** 0.5 - (n - b) ** 0.5) ** 2 for a, b, n in cells) / 2
            return uei**0.5, np.mean(p == truth)

        base = judged(0)
        allowed = [uei for cut in np.sort(score) if (both := judged(cut))[1] >= base[1] - 0.05 for uei in (both[0],)]
        assert judged(float(found.thresholds[j]))[0] == pytest.approx(min(allowed), abs=1e-9)


def test_group_thresholds_need_the_group_and_group_scores_do_not():
    valid, test = plain(1500, 10), plain(1500, 11)
    given = mitigate(valid, test, method="group thresholds")
    assert given.thresholds.shape == (2, 2)
    group = [valid.groups[g] for g in test.features.group.tolist()]
    predicted = given.predict(test.features.x, group)
    assert torch.equal(predicted, test.features.x > given.thresholds[test.features.group])
    with pytest.raises(ValueError, match="give each image's group"):
        given.predict(test.features.x)
    with pytest.raises(ValueError, match="unknown group 'x'"):
        given.predict(test.features.x, ["x", *group[1:]])
    inferred = mitigate(split(1500, 10), split(1500, 11), iterations=40)
    assert inferred.method == "calibrated multi-task"
    label = mitigate(valid, test)
    assert inferred.after.means.uei.item() < label.after.means.uei.item()
    with pytest.raises(ValueError, match="moves whole heads"):
        _ = inferred.thresholds


def with_features(n: int, seed: int) -> Sample:
    draw = torch.Generator().manual_seed(seed)
    group = torch.randint(2, (n,), generator=draw)
    truth = torch.rand(n, 2, generator=draw) < 0.3
    x = torch.cat([truth * (1.5 - 0.7 * group[:, None]) + 0.5 * torch.rand(n, 2, generator=draw), group[:, None] * 1.0], 1)
    x = torch.cat([x, torch.rand(n, 3, generator=draw)], 1)
    return Sample(truth, GROUPS[group.numpy()], features=x, names=NAMES)


HEAD = torch.tensor([[2.0, 0, 0, 0, 0, 0, -2.4], [0, 2.0, 0, 0, 0, 0, -2.4]])


@pytest.mark.parametrize("method", [name for name, one in METHODS.items() if one.find and not one.library])
def test_every_method_takes_features_and_a_head(method):
    valid, test = with_features(600, 0), with_features(600, 1)
    how: dict[str, Any] = {"particles": 10, "iterations": 5, "gradient_steps": 20, "seed": 3}
    found = mitigate(valid, test, head=HEAD, method=method, **how)
    given = Parameters(**how)
    own = METHODS[method].search(Problem(valid.features, HEAD, torch.tensor([True, True]), seed=3), given)
    assert torch.equal(found.search.heads.weights, own.heads.weights)
    assert found.before.means.labels.item() == 2
    assert sorted(found.changes.label) == NAMES


def test_a_head_is_a_tensor_a_layer_or_a_pair():
    valid, test = with_features(600, 0), with_features(600, 1)
    layer = nn.Linear(6, 2)
    layer.weight.data, layer.bias.data = HEAD[:, :-1].clone(), HEAD[:, -1].clone()
    heads: list[Any] = [HEAD, layer, (HEAD[:, :-1], HEAD[:, -1]), HEAD.numpy()]
    found = [mitigate(valid, test, head=head, method="label thresholds").head for head in heads]
    assert all(torch.equal(one, found[0]) for one in found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head": HEAD[:, :-1]}, r"a head of shape \(2, 6\) does not fit 2 labels and 6 features: it must be \(2, 7\)"),
        ({"head": None}, "features need the last layer"),
        ({"method": "multitask"}, "did you mean 'multi-task'"),
        ({"tolerence": 0.1}, "did you mean 'tolerance'"),
        ({"tolerance": -1}, "tolerance=-1 must be at least 0"),
        ({"layers": "all"}, "layers='all' moves the layer before"),
        ({"min_positives": 1000}, "no label has 1000 people with it in each group"),
        ({"not_analysed": ["Bold"]}, "did you mean 'Bald'"),
    ],
)
def test_what_does_not_fit_is_named(change, words):
    with pytest.raises(ValueError, match=words):
        mitigate(with_features(200, 0), with_features(200, 1), **({"head": HEAD} | change))


def test_scores_move_no_weights():
    with pytest.raises(ValueError, match="'multi-task' moves weights, and scores alone have none"):
        mitigate(plain(200, 0), plain(200, 1), method="multi-task")
    with pytest.raises(ValueError, match="scores are all 0 and 1"):
        Sample([[1], [0]], ["f", "m"], scores=[[1], [0]])
    with pytest.raises(ValueError, match="one of the two"):
        Sample([[1], [0]], ["f", "m"])
    with pytest.raises(ValueError, match="validation and test differ in groups: 2 \\(f, m\\) and 2 \\(f, x\\)"):
        mitigate(plain(200, 0), Sample(people(50, 1)["truth"], ["f", "x"] * 25, scores=people(50, 1)["scores"], names=NAMES))


def test_a_layer_with_two_names_is_replaced_under_both():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 2)
            self.net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), self.head)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

    module, x = Twice(), torch.rand(4, 3)
    changed = with_head(module, "head", torch.cat([torch.zeros(2, 8), torch.tensor([[1.0], [2.0]])], dim=1))
    assert changed(x).tolist() == [[1.0, 2.0]] * 4
    assert not torch.equal(module(x), changed(x))


def test_the_mean_gap_and_its_interval_are_of_the_same_labels():
    draw = np.random.default_rng(0)
    group = np.array(["f", "m"] * 1000)
    truth = draw.random((2000, 2)) < 0.4
    truth[:, 1] = False
    truth[:8, 1] = True  # four of each group: too few for a rate
    prediction = truth ^ (draw.random((2000, 2)) < 0.1)
    one, both = (assess(truth[:, :n], prediction[:, :n], group, draws=200).means for n in (1, 2))
    assert both.tpr_gap.item() == one.tpr_gap.item()
    assert both.tpr_gap_high.item() == pytest.approx(one.tpr_gap_high.item(), abs=0.02)


def test_precision_is_of_the_images_whose_group_is_known():
    known = people(400, 6)
    group = np.where(np.arange(400) < 200, known["group"], None)
    found = assess(known["truth"], known["scores"], group, draws=0)
    half = assess(known["truth"][:200], known["scores"][:200], known["group"][:200], draws=0)
    assert found.labels.average_precision.tolist() == half.labels.average_precision.tolist()


def test_single_images_are_predicted_by_their_group():
    valid, test = plain(800, 10), plain(800, 11)
    found = mitigate(valid, test, method="group thresholds")
    scores = test.features.x[:1]
    assert found.predict(scores, ["m"]).tolist() == (scores > found.thresholds[valid.groups.index("m")]).tolist()
    frame = pd.DataFrame(test.features.x.numpy(), columns=NAMES)
    group = [valid.groups[code] for code in test.features.group.tolist()]
    assert torch.equal(found.predict(frame[NAMES[::-1]], group), found.predict(test.features.x, group))
    with pytest.raises(ValueError, match="the group of 1 images is missing, first in row 1"):
        found.predict(test.features.x[:3], ["m", None, "f"])
    with pytest.raises(ValueError, match="there are 1 columns of scores or features, and 2 were given"):
        found.predict(test.features.x[:, :1], group)


def test_images_and_people_in_both_splits_are_refused():
    known, other = people(300, 0), people(200, 1)
    names, more = [f"{i}.jpg" for i in range(300)], [f"{i}.jpg" for i in range(290, 490)]

    def sample(of: dict[str, Any], **about: Any) -> Sample:
        return Sample(of["truth"], of["group"], scores=of["scores"], names=NAMES, **about)

    with pytest.raises(ValueError, match="validation and test share 10 images"):
        mitigate(sample(known, image=names), sample(other, image=more))
    with pytest.raises(ValueError, match="share 5 people"):
        mitigate(sample(known, person=range(300)), sample(other, person=np.arange(200) + 295))
    with pytest.raises(ValueError, match="share 300 images"):
        mitigate(sample(known), sample(known))
    valid, test = with_features(300, 0), with_features(200, 1)
    test.features.x[:7] = valid.features.x[3:10] * (1 + 1e-7)  # as another batch size rounds
    with pytest.raises(ValueError, match=r"share [67] images \(rows of equal numbers; name images by image="):
        mitigate(valid, test, head=HEAD)
    with pytest.raises(ValueError, match="share 200 people"):
        mitigate(sample(known, person=[float(i) for i in range(300)]), sample(other, person=range(200)))
    draw = np.random.default_rng(0)
    rounded = [
        Sample(draw.random((900, 5)) < 0.4, ["f", "m"] * 450, scores=draw.random((900, 5)).round(1)) for _ in range(2)
    ]
    assert mitigate(*rounded).method == "label thresholds"


class Ends(nn.Module):
    """A classifier whose last layers are as told."""

    def __init__(self, *ends: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU())
        self.ends = nn.Sequential(*ends)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ends(self.body(x))


def loader(n: int, seed: int) -> list[Any]:
    draw = torch.Generator().manual_seed(seed)
    images, labels, group = (
        torch.rand(n, 3, 2, 2, generator=draw),
        torch.rand(n, 2, generator=draw) < 0.4,
        torch.arange(n) % 2,
    )
    images[:, 0] += labels[:, :1, None] * (1 - 0.5 * group[:, None, None])
    return [(images[i : i + 64], labels[i : i + 64], group[i : i + 64]) for i in range(0, n, 64)]


@pytest.mark.parametrize("end", [[nn.Linear(6, 2)], [nn.Linear(6, 2, bias=False)], [nn.Linear(6, 2), nn.Sigmoid()]])
def test_a_module_is_taken_as_it_is(end):
    torch.manual_seed(0)
    module = Ends(*end).train()
    module.load_state_dict({name: 2 * value for name, value in module.state_dict().items()})
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = mitigate(loader(400, 0), iter(loader(400, 1)), module=module, names=NAMES, particles=10, iterations=10)
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    corrected = found.module.eval()
    images = torch.cat([batch[0] for batch in loader(400, 1)])
    features = module.body(images).detach()
    cut = 0.5 if len(end) > 1 else 0.0
    same = (corrected(images) > cut) == found.predict(features)
    assert float(same.double().mean()) > 0.998
    assert last_linear(corrected, loader(64, 0)[0]) == "ends.0"


def test_a_module_that_does_not_end_in_a_linear_layer_is_named():
    module = Ends(nn.Linear(6, 2), nn.Softmax(dim=1))
    with pytest.raises(ValueError, match=r"last layers are body\.2 \(ReLU\), ends\.0 \(Linear\), ends\.1 \(Softmax\)"):
        mitigate(loader(100, 0), loader(100, 1), module=module)
    with pytest.raises(ValueError, match="a batch lacks group"):
        mitigate([(torch.rand(4, 3, 2, 2), torch.rand(4, 2) < 0.5)], [], module=Ends(nn.Linear(6, 2)))
    with pytest.raises(ValueError, match="gives no batches"):
        mitigate([], [], module=Ends(nn.Linear(6, 2)))


def pictures(n: int, seed: int, size: int) -> list[tuple[torch.Tensor, ...]]:
    draw = torch.Generator().manual_seed(seed)
    images, labels, group = (
        torch.rand(n, 3, size, size, generator=draw),
        torch.rand(n, 2, generator=draw) < 0.4,
        torch.arange(n) % 2,
    )
    return [(images[i : i + 32], labels[i : i + 32], group[i : i + 32]) for i in range(0, n, 32)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "efficientnet_b0"])
def test_timm_models_pass_unchanged(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    size = 224 if "vit" in name else 64
    module = timm.create_model(name, pretrained=False, num_classes=2).eval()
    parts = (pictures(64, 0, size), pictures(64, 1, size))
    found = mitigate(*parts, module=module, particles=5, iterations=2, min_positives=1)
    with torch.no_grad():
        assert found.module(parts[1][0][0]).shape == (32, 2)
    assert found.head.shape == (2, module.num_features + 1)


@pytest.mark.slow
def test_transformers_models_pass_unchanged():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(**small, image_size=32, patch_size=8, num_labels=2)
    module = transformers.ViTForImageClassification(config).eval()
    parts = [
        [dict(zip(("pixel_values", "labels", "group"), batch, strict=True)) for batch in pictures(64, seed, 32)]
        for seed in (0, 1)
    ]
    found = mitigate(*parts, module=module, particles=5, iterations=2, min_positives=1)
    assert found.module_before is not None
    assert found.module_before[1] == "classifier"
    with torch.no_grad():
        assert found.module(parts[1][0]["pixel_values"]).logits.shape == (32, 2)
