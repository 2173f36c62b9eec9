import dataclasses
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from fairnb import training
from fairnb.data import read_celeba
from fairnb.files import load_tensors, save_tensors
from fairnb.training import (
    Features,
    Recipe,
    extract_features,
    load_features,
    load_heads,
    make_fabric,
    save_features,
    train_base,
    weighted_mean_average_precision,
)

RECIPE = Recipe(
    backbone="resnet18", weights="", hidden=8, resize=20, image_size=16, epochs=3, batch_size=32, learning_rate=3e-3,
    precision="32-true",
)  # fmt: skip


@pytest.fixture(scope="module")
def faces(celeba):
    return read_celeba(celeba)


@pytest.fixture(scope="module")
def trained(faces, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return train_base(faces, RECIPE, folder, cache=folder / "cache", device="cpu"), folder


def test_training_learns_and_keeps_its_best_epoch(trained):
    base, folder = trained
    history = base.history
    assert history.epoch.tolist() == [1, 2, 3]
    assert history.loss.iloc[-1] < history.loss.iloc[0]
    assert history.val_map[history.best].item() == history.val_map.max()
    assert base.best_epoch == int(history.epoch[history.best].item())
    assert sorted(path.name for path in folder.iterdir()) == ["base.safetensors", "cache", "history.csv"]
    saved = load_tensors(folder / "base.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in base.model.state_dict().items())


def test_finished_training_is_loaded(faces, trained, monkeypatch):
    base, folder = trained
    monkeypatch.setattr(training, "_train_epoch", lambda *_: pytest.fail("trained again"))
    again = train_base(faces, RECIPE, folder, cache=folder / "cache", device="cpu")
    assert torch.equal(again.heads, base.heads)
    assert again.history.val_map.tolist() == pytest.approx(base.history.val_map.tolist())


@pytest.mark.parametrize("stop", ["while training", "while saving"])
def test_interrupted_training_ends_as_an_uninterrupted_one(faces, trained, tmp_path, monkeypatch, stop):
    base, folder = trained
    name = {"while training": "_train_epoch", "while saving": "_save_checkpoint"}[stop]
    real, calls = getattr(training, name), []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(training, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_base(faces, RECIPE, tmp_path, cache=folder / "cache", device="cpu")
    assert (tmp_path / "checkpoint.safetensors").exists()
    resumed = train_base(faces, RECIPE, tmp_path, cache=folder / "cache", device="cpu")
    for (key, one), other in zip(resumed.model.state_dict().items(), base.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), key
    measured = ["loss", "val_loss", "val_map", "val_accuracy", "val_uei"]
    assert resumed.history[measured].equals(base.history[measured])


def test_features_and_heads_are_the_network(faces, trained):
    base, folder = trained
    features = extract_features(faces, base, RECIPE, cache=folder / "cache", device="cpu")
    valid = features["valid"]
    assert valid.x.shape == (48, 8)
    assert not valid.x.requires_grad
    fabric = make_fabric("cpu", "32-true")
    logits = training.apply(base.model, faces, "valid", RECIPE, fabric, folder / "cache")
    torch.testing.assert_close(valid.x @ base.heads[:, :-1].T + base.heads[:, -1], logits)
    assert torch.equal(load_heads(folder / "base.safetensors"), base.heads)


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


def test_augmentation_cuts_squares_out_of_each_image():
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 9, 7), generator=draw, dtype=torch.uint8)
    crops = training._augment(images, 5, draw)
    flips = 0
    for image, crop in zip(images, crops, strict=True):
        windows = image.unfold(1, 5, 1).unfold(2, 5, 1).permute(1, 2, 0, 3, 4).reshape(-1, 3, 5, 5)
        plain = any(torch.equal(window, crop) for window in windows)
        flipped = any(torch.equal(window.flip(-1), crop) for window in windows)
        assert plain or flipped
        flips += flipped and not plain
    assert 8 < flips < 32


def test_a_loss_that_is_no_number_stops_the_training(faces, tmp_path):
    with pytest.raises(ValueError, match=r"the loss became (nan|inf) in epoch"):
        train_base(faces, dataclasses.replace(RECIPE, learning_rate=1e30), tmp_path, cache=tmp_path / "c", device="cpu")


def test_bad_input_is_named_before_any_decoding(faces, tmp_path):
    def train(device="cpu", **settings):
        train_base(faces, dataclasses.replace(RECIPE, **settings), tmp_path, cache=tmp_path / "cache", device=device)

    with pytest.raises(ValueError, match="did you mean 'resnet18'"):
        train(backbone="resnet8")
    with pytest.raises(ValueError, match="did you mean 'cuda'"):
        train(device="cudaa")
    with pytest.raises(ValueError, match="alexnet does not take images of 16 pixels"):
        train(backbone="alexnet")
    with pytest.raises(ValueError, match="cannot be larger"):
        train(image_size=30)
    with pytest.raises(ValueError, match="epochs=0"):
        train(epochs=0)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="'cuda' is not on this machine"):
            train(device="cuda")
    assert not (tmp_path / "cache").exists()


def test_a_folder_of_another_training_is_refused(faces, trained):
    _, folder = trained
    before = (folder / "base.safetensors").read_bytes()
    with pytest.raises(ValueError, match="trained by another recipe"):
        train_base(faces, dataclasses.replace(RECIPE, epochs=4), folder, cache=folder / "cache", device="cpu")
    assert (folder / "base.safetensors").read_bytes() == before


def test_a_damaged_file_is_named(faces, trained, tmp_path):
    _, folder = trained
    (tmp_path / "history.csv").write_bytes((folder / "history.csv").read_bytes())
    (tmp_path / "base.safetensors").write_bytes((folder / "base.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"base\.safetensors cannot be read"):
        train_base(faces, RECIPE, tmp_path, cache=folder / "cache", device="cpu")


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
