from urllib.error import URLError

import pytest
import torch
import torchvision

from fairnb.model import build_model

BACKBONES = [name for name in torchvision.models.list_models(module=torchvision.models) if not name.startswith("regnet")]


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "regnet_x_400mf", "vgg11"])
def test_backbones_give_logits_and_features(name):
    model = build_model(name, 5, hidden=7).eval()
    images = torch.randn(2, 3, 64, 64)
    features = model.penultimate(images)
    assert features.shape == (2, 7)
    assert bool((features >= 0).all())
    torch.testing.assert_close(model(images), features @ model.heads[:, :-1].T + model.heads[:, -1])


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_fits(name):
    with torch.device("meta"):  # shapes without numbers; RegNets cannot be built so, one of them is built above
        model = build_model(name, 39, hidden=16).eval()
        assert model(torch.empty(2, 3, 299, 299) if "inception" in name else torch.empty(2, 3, 224, 224)).shape == (2, 39)


def test_heads_are_replaced():
    model = build_model("resnet18", 4, hidden=6).eval()
    heads = torch.randn(4, 7)
    model.replace_heads(heads)
    assert torch.equal(model.heads, heads)
    with pytest.raises(ValueError, match=r"do not fit a layer of shape \(4, 7\)"):
        model.replace_heads(heads[:, :-1])


def test_the_seed_decides_the_weights_and_leaves_the_global_generator():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, other, third = (build_model("resnet18", 3, 4, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.heads, other.heads)
    assert not torch.equal(one.heads, third.heads)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_are_read_from_torchvisions_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(3)
    network = torchvision.models.resnet18()
    torch.save(network.state_dict(), folder / "resnet18-f37072fd.pth")  # the official file's name and format
    model = build_model("resnet18", 3, 4, weights="IMAGENET1K_V1")
    assert torch.equal(model.backbone.get_parameter("conv1.weight"), network.conv1.weight)


def test_weights_that_cannot_be_fetched_say_which_file_goes_where(tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    with pytest.raises(FileNotFoundError, match=r"put the file resnet18-f37072fd\.pth into .*checkpoints"):
        build_model("resnet18", 3, 4, weights="IMAGENET1K_V1")


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'resnet50'"):
        build_model("resnet-50", 3)
    with pytest.raises(ValueError, match="did you mean 'IMAGENET1K_V1'"):
        build_model("resnet18", 3, weights="IMAGENET_V1")
    with pytest.raises(ValueError, match="must be positive"):
        build_model("resnet18", 0)


def test_domains_answer_apart_and_merge_into_their_mean():
    model = build_model("resnet18", 5, hidden=7, domains=3).eval()
    images, domain = torch.randn(4, 3, 64, 64), torch.tensor([2, 0, 1, 2])
    every = model.head(model.penultimate(images)).view(4, 3, 5)
    torch.testing.assert_close(model(images, domain), torch.stack([every[0, 2], every[1, 0], every[2, 1], every[3, 2]]))
    one = model.merged()
    assert one.heads.shape == (5, 8)
    torch.testing.assert_close(one(images), every.mean(1))
    torch.testing.assert_close(one(images), model(images))
    assert model.domains == 3
    assert one.merged() is one
