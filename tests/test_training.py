import math
import os
import signal

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from fairnb import training
from fairnb.data import read_celeba
from fairnb.data.feeding import Feed
from fairnb.features import Features, extract_features, load_features, load_layer, save_features
from fairnb.run.device import make_fabric
from fairnb.run.files import load_tensors, save_tensors
from fairnb.run.lock import alone
from fairnb.run.parameters import Machine
from fairnb.training import FILES, train_base
from fairnb.weighting import reweighing, weighted_mean_average_precision
from tests import conftest

RECIPE = conftest.LEARNS.but(epochs=3, schedule="one-cycle")


@pytest.fixture(scope="module")
def faces(celeba):
    return read_celeba(celeba)


def feed_of(faces, cache, recipe=RECIPE, **feeding):
    fabric = make_fabric("cpu", recipe.precision)
    return Feed(faces.images, recipe.resize, recipe.image_size, cache=cache, fabric=fabric, **feeding)


def train(faces, folder, cache, recipe=RECIPE, tensorboard=False, **feeding):
    return train_base(faces, recipe, folder, feed_of(faces, cache, recipe, **feeding), tensorboard=tensorboard)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(faces, cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return train(faces, folder, cache), folder


def test_the_learning_rate_goes_up_and_down_once():
    steps = 40
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    oracle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=steps, cycle_momentum=False)
    for step in range(steps):
        assert training.one_cycle(step, steps) == pytest.approx(oracle.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        if step < steps - 1:
            oracle.step()
    assert training.one_cycle(0, 1) == pytest.approx(4e-6)  # a single step


def test_training_learns_and_keeps_its_best_epoch(trained):
    base, folder = trained
    history = base.history
    assert history.epoch.tolist() == [1, 2, 3]
    assert history.loss.iloc[-1] < history.loss.iloc[0]
    assert history.val_map[history.best].item() == history.val_map.max()
    assert base.best_epoch == int(history.epoch[history.best].item())
    assert conftest.names_in(folder) == sorted(FILES)
    saved = load_tensors(folder / "base.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in base.model.state_dict().items())


def test_where_the_time_went_adds_up(trained):
    base, _ = trained
    history = base.history
    assert (history.waiting <= history.training).all()
    assert (history[["training", "waiting", "validating", "saving"]] > 0).all(axis=None)
    assert history.images_per_second.tolist() == pytest.approx((96 / history.training).tolist())
    assert base.seconds == pytest.approx(history.training.sum() + history.validating.sum() + history.saving.sum())


def test_us_of_every_epoch_is_that_of_its_counts(faces, cache, trained):
    base, _ = trained
    us = base.us
    assert us.groupby("epoch").size().tolist() == [4 * 2] * 3
    np.testing.assert_allclose(us.us, (us.predicted_positives / us.n) / (us.positives / us.n))
    by_split = faces.prevalence("valid").set_index(["label", "group"]).positives
    assert us[us.epoch == 2].set_index(["label", "group"]).positives.equals(by_split)
    kept = us[us.epoch == base.best_epoch].set_index(["label", "group"]).predicted_positives
    logits = feed_of(faces, cache).apply(base.model, faces.rows("valid"), title="test")
    women = faces.group[faces.rows("valid")] == 0
    expected = (logits[women] > 0).sum(0).tolist()
    assert [kept[label, "female"] for label in faces.label_names] == expected


def test_finished_training_is_loaded(faces, cache, trained, monkeypatch):
    base, folder = trained
    monkeypatch.setattr(training, "_Training", lambda *_: pytest.fail("trained again"))
    again = train(faces, folder, cache)
    assert torch.equal(again.heads, base.heads)
    assert again.history.equals(base.history)
    assert again.us.equals(base.us)


def assert_same_training(one, other):
    for (name, tensor), same in zip(one.model.state_dict().items(), other.model.state_dict().values(), strict=True):
        assert torch.equal(tensor, same), name
    measured = ["epoch", "loss", "val_loss", "val_map", "val_accuracy", "val_uei", "best"]
    assert one.history[measured].equals(other.history[measured])
    assert one.us.equals(other.us)


@pytest.mark.parametrize("moment", ["in a step", "before validation", "while saving", "at the end"])
def test_a_training_that_breaks_off_ends_as_one_that_did_not(faces, cache, trained, tmp_path, monkeypatch, moment):
    base, _ = trained
    name, at = {
        "in a step": ("_look", 5), "before validation": ("_validate", 2), "while saving": ("_save_checkpoint", 2),
        "at the end": ("_save_checkpoint", 3),
    }[moment]  # fmt: skip
    real, calls = getattr(training._Training, name), []

    def breaks(*arguments):
        calls.append(1)
        if len(calls) == at:
            raise MemoryError
        return real(*arguments)

    monkeypatch.setattr(training._Training, name, breaks)
    with pytest.raises(MemoryError):
        train(faces, tmp_path, cache)
    assert (tmp_path / "checkpoint.safetensors").exists()
    assert_same_training(train(faces, tmp_path, cache), base)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_at_once_and_says_how_to_go_on(faces, cache, trained, tmp_path, monkeypatch, kind, capfd):
    base, _ = trained
    real, calls, before = training._Training._look, [], signal.getsignal(signal.SIGINT)

    def look(*arguments):
        calls.append(1)
        if len(calls) == 5:  # three steps an epoch: in the midst of the second
            os.kill(os.getpid(), kind)
        return real(*arguments)

    monkeypatch.setattr(training._Training, "_look", look)
    with pytest.raises(KeyboardInterrupt, match=r"stopped in epoch 2 of 3 after 2 of 3 steps .*the same command"):
        train(faces, tmp_path, cache)
    assert "finishing this step" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
    assert_same_training(train(faces, tmp_path, cache), base)
    assert len(calls) == 9  # no step twice


@pytest.mark.parametrize(
    "feeding", [{"form": "files", "workers": 0}, {"form": "files", "workers": 2}, {"form": "cached", "workers": 1}]
)
def test_however_images_are_fed_the_training_is_the_same(faces, trained, tmp_path, feeding):
    base, _ = trained
    assert_same_training(train(faces, tmp_path / "run", tmp_path / "cache", **feeding), base)
    assert bool(list((tmp_path / "cache").glob("*.npy"))) == (feeding["form"] == "cached")


def test_features_and_heads_are_the_network(faces, cache, trained):
    base, folder = trained
    feed = feed_of(faces, cache)
    valid = extract_features(faces, base.model, feed)["valid"]
    assert valid.x.shape == (48, 8)
    assert not valid.x.requires_grad
    logits = feed.apply(base.model, faces.rows("valid"), title="test")
    torch.testing.assert_close(valid.x @ base.heads[:, :-1].T + base.heads[:, -1], logits)
    assert torch.equal(load_layer(folder / "base.safetensors"), base.heads)


def test_reweighing_by_hand_and_what_it_is_for():
    labels = torch.tensor([[1], [1], [1], [0], [1], [0], [0], [0], [0], [0]], dtype=torch.bool)
    group = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    weights = reweighing(labels, group, 2)
    # P[S=1] P[Y=1] / P[S=1, Y=1] = 0.6 · 0.4 / 0.1
    torch.testing.assert_close(weights[:, 0], torch.tensor([[0.4 * 0.6 / 0.1, 0.4 * 0.4 / 0.3], [0.6 * 0.6 / 0.5, 2.4]]))
    draw = torch.Generator().manual_seed(0)
    labels, group = torch.rand(300, 4, generator=draw) < 0.3, torch.randint(3, (300,), generator=draw)
    each = reweighing(labels, group, 3)[group.unsqueeze(1), torch.arange(4), labels.long()]  # [N, L]
    for g in range(3):  # weighted, every group has the label as often as all have
        of_group = (each * labels)[group == g].sum(0) / each[group == g].sum(0)
        torch.testing.assert_close(of_group, labels.float().mean(0))
    assert float(reweighing(torch.tensor([[True]]), torch.tensor([0]), 2)[1].abs().max()) == 0


@pytest.mark.parametrize("mitigation", ["reweighing", "domain-independent"])
def test_a_mitigated_training_is_another_one_and_goes_on_to_the_same_end(
    faces, cache, trained, tmp_path, monkeypatch, mitigation
):
    recipe = RECIPE.but(mitigation=mitigation)
    base = train(faces, tmp_path / "whole", cache, recipe)
    assert base.history.loss.iloc[-1] < base.history.loss.iloc[0]
    assert base.heads.shape == trained[0].heads.shape
    assert not torch.equal(base.heads, trained[0].heads)
    features = extract_features(faces, base.model, feed_of(faces, cache, recipe))["valid"]
    rows = faces.rows("valid")
    logits = feed_of(faces, cache, recipe).apply(base.model, rows, title="")
    torch.testing.assert_close(logits, features.x @ base.heads[:, :-1].T + base.heads[:, -1], rtol=1e-4, atol=1e-4)

    def break_off(self):
        raise RuntimeError("power cut")

    with monkeypatch.context() as context:
        context.setattr(training._Training, "_validate", break_off)
        with pytest.raises(RuntimeError, match="power cut"):
            train(faces, tmp_path / "broken", cache, recipe)
    assert torch.equal(train(faces, tmp_path / "broken", cache, recipe).heads, base.heads)


def test_weighted_map_is_sklearns_for_one_group():
    draw = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(60, 3, generator=draw), torch.rand(60, 3, generator=draw) < 0.3
    expected = np.mean([average_precision_score(labels[:, j], scores[:, j]) for j in range(3)])
    assert weighted_mean_average_precision(scores, labels, torch.zeros(60, dtype=torch.int64)) == pytest.approx(expected)


def test_weighted_map_by_hand():
    # Ranked from high to low: a positive of group 0, a negative, then three positives of group 1.
    scores, labels = torch.tensor([[5.0], [4.0], [3.0], [2.0], [1.0]]), torch.tensor([[1], [0], [1], [1], [1]]).bool()
    group = torch.tensor([0, 1, 1, 1, 1])
    own, other = 4 / (2 * 1), 4 / (2 * 3)  # weights (N_m + N_f) / (2 N_own)
    gained = own * 1 + sum(other * (own + k * other) / (own + k * other + 1) for k in (1, 2, 3))
    assert weighted_mean_average_precision(scores, labels, group) == pytest.approx(gained / 4)


def test_labels_without_positives_are_left_out_of_the_mean():
    labels = torch.tensor([[1, 0], [0, 0]]).bool()
    assert weighted_mean_average_precision(torch.tensor([[2.0, 0.0], [1.0, 0.0]]), labels, torch.tensor([0, 1])) == 1.0
    assert math.isnan(weighted_mean_average_precision(torch.zeros(2, 1), torch.zeros(2, 1).bool(), torch.tensor([0, 1])))


def test_a_loss_that_is_no_number_stops_the_training(faces, cache, trained, tmp_path, monkeypatch):
    """Its step and images are named, and what was saved before stays as it was."""
    base, _ = trained
    real, saved = training._Training._epoch, []

    def epoch(self, bar, stop):
        if len(self.course.rows) == 1:
            saved.append((tmp_path / "checkpoint.safetensors").read_bytes())
            with torch.no_grad():
                self.model.head.bias[0] = math.inf
        return real(self, bar, stop)

    with monkeypatch.context() as patched:
        patched.setattr(training._Training, "_epoch", epoch)
        with pytest.raises(
            ValueError, match=r"loss became (nan|inf) in epoch 2, step 1 of 3 \(images 0.*more\)\): lower learning_rate"
        ):
            train(faces, tmp_path, cache)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == saved[0]
    assert_same_training(train(faces, tmp_path, cache), base)


def test_a_last_batch_of_one_image_is_left_out(faces, cache, tmp_path):
    """At 16 pixels a ResNet ends in a single place, of which one image has no spread to normalise by."""
    recipe = RECIPE.but(batch_size=19, epochs=1)  # 96 = 5 · 19 + 1
    assert train(faces, tmp_path, cache, recipe).history.loss.notna().all()


def test_two_trainings_cannot_share_a_folder(faces, cache, tmp_path):
    with (
        alone(tmp_path),
        pytest.raises(ValueError, match=r"^another process is at work in .*: wait"),
    ):
        train(faces, tmp_path, cache)


def test_what_a_killed_training_left_half_written_is_cleared_away(faces, cache, trained, tmp_path):
    (tmp_path / ".checkpoint.safetensors.99999999.part").write_bytes(b"half")
    assert_same_training(train(faces, tmp_path, cache), trained[0])
    assert conftest.names_in(tmp_path) == sorted(FILES)


def test_a_place_that_cannot_be_written_to_is_found_first(faces, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot be written to"):
        train(faces, tmp_path / "file" / "run", tmp_path / "cache")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**8})())
    with pytest.raises(OSError, match=r"has 0\.10 GB free; the training keeps up to 0\.31 GB"):
        train(faces, tmp_path / "run", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_tensorboard_logs_what_the_history_holds(faces, cache, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    base = train(faces, tmp_path, cache, tensorboard=True)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    logged = [(event.step, event.value) for event in events.Scalars("validation map")]
    assert [step for step, _ in logged] == [3, 6, 9]
    assert [value for _, value in logged] == pytest.approx(base.history.val_map.tolist())
    assert len(events.Scalars("training loss")) == 9


def test_bad_input_is_named_before_any_decoding(faces, tmp_path):
    def attempt(device="cpu", feed="auto", workers=0, **settings):
        recipe = RECIPE.but(**settings)
        machine = Machine(device=device, feed=feed, workers=workers)
        make_fabric(machine.device)
        train(faces, tmp_path, tmp_path / "cache", recipe, form=machine.feed, workers=machine.workers)

    with pytest.raises(ValueError, match="did you mean 'resnet18'"):
        attempt(backbone="resnet8")
    with pytest.raises(ValueError, match="did you mean 'cuda'"):
        attempt(device="cudaa")
    with pytest.raises(ValueError, match="alexnet does not take images of 16 pixels"):
        attempt(backbone="alexnet")
    with pytest.raises(ValueError, match="did you mean 'reweighing'"):
        attempt(mitigation="reweighting")
    with pytest.raises(ValueError, match="did you mean 'one-cycle'"):
        attempt(schedule="onecycle")
    with pytest.raises(ValueError, match="cannot be larger"):
        attempt(image_size=30)
    with pytest.raises(ValueError, match="epochs=0 must be at least 1"):
        attempt(epochs=0)
    with pytest.raises(ValueError, match="unknown feed 'file': did you mean 'files'"):
        attempt(feed="file")
    with pytest.raises(ValueError, match="workers=-2"):
        attempt(workers=-2)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="'cuda' is not on this machine"):
            attempt(device="cuda")
    assert not (tmp_path / "cache").exists()


def test_a_folder_of_another_training_is_refused(faces, cache, trained):
    _, folder = trained
    before = (folder / "base.safetensors").read_bytes()
    with pytest.raises(ValueError, match="trained by another recipe"):
        train(faces, folder, cache, RECIPE.but(epochs=4))
    assert (folder / "base.safetensors").read_bytes() == before


def test_a_damaged_file_is_named(faces, cache, trained, tmp_path):
    _, folder = trained
    for name in FILES[1:]:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "base.safetensors").write_bytes((folder / "base.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"base\.safetensors cannot be read"):
        train(faces, tmp_path, cache)


def test_features_come_back_from_their_file(tmp_path):
    parts = {
        split: Features(torch.rand(n, 3), torch.rand(n, 2) > 0.5, torch.zeros(n, dtype=torch.int64), groups=3)
        for split, n in (("valid", 5), ("test", 4))
    }
    save_features(tmp_path / "features.safetensors", parts)
    found = load_features(tmp_path / "features.safetensors")
    assert list(found) == ["valid", "test"]  # in the order of the tables of results
    for split, part in parts.items():
        assert found[split].groups == 3
        for name in ("x", "labels", "group"):
            assert torch.equal(getattr(found[split], name), getattr(part, name))
    save_tensors(tmp_path / "other.safetensors", {"x": torch.zeros(1)})
    with pytest.raises(ValueError, match="does not say how many groups"):
        load_features(tmp_path / "other.safetensors")
