"""Exported models: without fairnb they give the run's own predictions, from the run's own pixels."""

import ast
import json
import re
import shutil
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from torchvision.transforms.v2 import functional as F
from typer.testing import CliRunner

from fairnb.cli import app
from fairnb.data import pixels, read_celeba
from fairnb.data.decoded import read_images, stored_shape
from fairnb.data.images import ImageFolder
from fairnb.experiment import Experiment
from fairnb.export import Stated, export, load, one_head, predict
from fairnb.export.card import card, table, text
from fairnb.export.folder import Agreement, open_run, renamed
from fairnb.export.network import FromPixels, plain, squares, thresholds
from fairnb.export.onnx_file import run_onnx, write_onnx
from fairnb.features import Features
from fairnb.heads import Heads
from fairnb.model import arguments_of, build_model, classifier_of
from fairnb.run.files import folder_beside, load_json, save_json
from fairnb.yours.assessment import by_group as assessed
from tests.conftest import LEARNS, NAMES, RECIPE
from tests.test_experiment import SEARCH, experiment
from tests.test_feeding import feed_of

NEAR = 1e-5  # logits closer to 0 may be predicted otherwise
WIDE: dict[str, Any] = {"backbone": LEARNS.backbone, "hidden": 32, "dropout": 0.0, "epochs": 3}  # logits that differ
LABELS = [name for name in NAMES if name != "Male"]


@contextmanager
def without_onnx():
    """Export without ONNX: torch's exporter takes ten seconds or more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fairnb.export.folder.write_onnx", lambda path, network, config: 20)
        patch.setattr("fairnb.export.folder.run_onnx", lambda path, batches, _: list(map(load(path.parent)[1], batches)))
        yield


def exported(run, method, folder, **how):
    said: list[str] = []
    export(run.folder, method, folder, say=said.append, **how)
    return folder, said


@pytest.fixture(scope="module")
def run(celeba, tmp_path_factory):
    found = experiment(celeba, tmp_path_factory.mktemp("runs"), **WIDE)
    search = found.search("multi-task")
    assert float(search.heads.logits(found.features()["test"]).std(1).min()) > 0.1  # there is something to compare
    found.search("group thresholds")
    return found


@pytest.fixture(scope="module")
def multi_task(run, tmp_path_factory):
    with without_onnx():
        return exported(run, "multi-task", tmp_path_factory.mktemp("exports") / "multi-task")


@pytest.fixture(scope="module")
def by_group(run, tmp_path_factory):
    with without_onnx():
        return exported(run, "group thresholds", tmp_path_factory.mktemp("exports") / "by group", input="float")[0]


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """Both of these with their ONNX files."""
    folder = tmp_path_factory.mktemp("whole")
    kinds = {"multi-task": "uint8", "group thresholds": "float"}
    return {method: exported(run, method, folder / kind, input=kind) for method, kind in kinds.items()}


@pytest.fixture(scope="module")
def photos(celeba, run, tmp_path_factory):
    """The images of the test split, in a folder of their own."""
    folder = tmp_path_factory.mktemp("photos")
    for row in run.faces.rows("test").tolist():
        shutil.copy(celeba / "img_align_celeba" / run.faces.images.names[row], folder)
    return folder


def same_predictions(scores, others):
    """Equal scores up to rounding, and equal predictions but next to 0."""
    torch.testing.assert_close(scores, others, atol=NEAR, rtol=NEAR)
    differ = (scores > 0) != (others > 0)
    assert bool((others[differ].abs() < NEAR).all())


# --- pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((218, 178), (71, 58)), ((44, 36), (24, 20)), ((44, 36), (58, 48)), ((9, 500), (31, 31)), ((64, 64), (64, 20)),
        ((5, 7), (1, 1)), ((1200, 900), (298, 224)),
    ],
)  # fmt: skip
def test_images_are_scaled_as_torchvision_scales_them(old, new):
    draw = np.random.default_rng(0)
    for image in (draw.integers(0, 256, (*old, 3), dtype=np.uint8), draw.integers(0, 2, (*old, 3), dtype=np.uint8) * 255):
        expected = F.resize(torch.from_numpy(image).permute(2, 0, 1), list(new), antialias=True).permute(1, 2, 0).numpy()
        assert np.array_equal(pixels.scale(image, new), expected)


@pytest.mark.parametrize("resize", [20, 48])  # smaller and larger than the images
def test_pixels_are_those_of_the_training(celeba, tmp_path, resize):
    images = read_celeba(celeba).images
    feed = feed_of(images, tmp_path, resize, 16)
    (batch,) = feed.batches([torch.arange(6)])
    config = {"stored": stored_shape(images, resize), "scaled": batch.shape[1:3], "image_size": 16}
    for name, expected in zip(images.names, batch, strict=False):
        top, left = (round((side - 16) / 2) for side in expected.shape[:2])
        found = pixels.pixels(celeba / "img_align_celeba" / name, config)
        assert np.array_equal(found, expected[top : top + 16, left : left + 16].numpy())


def test_images_of_another_shape_are_covered_and_cropped(tmp_path):
    """As by `decoded.read_images`, which uses torchvision."""
    draw = np.random.default_rng(1)
    for name, shape in {
        "wide.png": (30, 90, 3),
        "tall.png": (91, 33, 3),
        "small.png": (9, 8, 3),
        "grey.png": (40, 40),
    }.items():
        Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / name)
        expected = read_images(ImageFolder(tmp_path, [name]), [0], (24, 20))[0].numpy()
        assert np.array_equal(pixels.cover(pixels.decode((tmp_path / name).read_bytes()), (24, 20)), expected)


# --- the folder ------------------------------------------------------------------------------------------------------


def test_a_folder_holds_all_that_is_needed(run, multi_task):
    folder, said = multi_task
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "README.md", "pixels.py"}
    assert list(folder.parent.iterdir()) == [folder]
    config = load_json(folder / "config.json")
    assert (config["labels"], config["groups"], config["sensitive"]) == (LABELS, ["female", "male"], ["Male"])
    assert (config["thresholds"], config["needs_group"], config["input"]) == ([0] * 4, False, "uint8")
    assert (config["method"], config["tolerance"], config["parameters"]["particles"]) == ("multi-task", 0.1, 12)
    assert "epsilon" not in config["parameters"]  # the method knows none
    assert (config["resize"], config["stored"], config["image_size"]) == (20, [24, 20], 16)
    assert config["revision"]["run"] == run.record.stages["multi-task"]["revision"]
    assert {"torch", "torchvision", "onnx", "fairnb"} <= set(config["versions"])
    assert config["dataset"] == {
        "layout": "celeba", "name": run.faces.images.source.split("/")[-2], "images": {"train": 96, "valid": 48, "test": 48},
        "people": None, "told": [],
    }  # fmt: skip
    assert str(Path(run.parameters.data_root).parent) not in (folder / "README.md").read_text() + json.dumps(config)
    assert [line.partition(":")[0] for line in said] == ["ONNX and torch", "torch and the run"]
    assert "on 48 test images the largest difference of logits is" in said[0]
    assert f"of {48 * 4} predictions differ" in said[0]
    assert config["checked"]["onnx"]["words"] in said[0]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["multi-task", "group thresholds"])
def test_onnx_gives_the_runs_predictions(run, whole, method):
    import onnxruntime

    folder, said = whole[method]
    assert {path.name for path in folder.iterdir()} >= {"model.safetensors", "model.onnx"}
    assert "on 48 test images the largest difference of logits is" in said[0]
    config, test = load_json(folder / "config.json"), run.features()["test"]
    kind = {"uint8": "uint8", "float": "float32"}[config["input"]]
    images = squares(run.faces.images, run.faces.rows("test").tolist(), config).numpy().astype(kind)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    logits = torch.from_numpy(session.run(None, {"images": images})[0])
    same_predictions(logits - thresholds(config).expand(2, -1)[test.group], run.search(method).heads.logits(test).T)
    assert session.run(None, {"images": images[:1]})[0].shape == (1, 4)  # a batch of any size
    given = session.get_inputs()[0]
    assert given.type == {"uint8": "tensor(uint8)", "float": "tensor(float)"}[config["input"]]
    assert given.shape[1:] == [16, 16, 3]


@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_onnx_normalises_pixels_by_itself(tmp_path, kind):
    """A network that passes on the mean of each channel: what comes out is known."""
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    config = {"mean": [0.5, 0.25, 0.0], "std": [0.5, 0.25, 2.0], "image_size": 4, "input": kind, "input_name": "images"}
    assert write_onnx(tmp_path / "m.onnx", FromPixels(network, config).eval(), config) >= 18
    images = torch.tensor([[255, 0, 51]], dtype=torch.uint8).expand(5, 4, 4, 3)
    (found,) = run_onnx(tmp_path / "m.onnx", [images], config)
    torch.testing.assert_close(found, torch.tensor([[1.0, -1.0, 0.1]]).expand(5, 3))


def blocks(folder):
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)


def without(folder, block, modules, python=sys.executable):
    """Run a block of a card in its folder where these modules cannot be imported; returns the scores that it prints."""
    code = f"import sys\nsys.modules.update(dict.fromkeys({list(modules)!r}))\nsys.path.insert(0, '')\n" + block
    done = subprocess.run([python, "-I", "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout)


def scored_by_the_run(run, method, name, group=0):
    """Scores float32 [L] of an image of the test split as one of a group."""
    test, row = run.features()["test"], run.faces.rows("test").tolist().index(run.faces.images.names.index(name))
    one = Features(test.x[row : row + 1], test.labels[row : row + 1], torch.tensor([group]), 2)
    return run.search(method).heads.logits(one)[:, 0]


def of_the_cards_lines(folder, place, absent, photo):
    shutil.copy(photo, folder / "photo.jpg")
    block = blocks(folder)[place]
    assert len([line for line in block.splitlines() if line and "import" not in line]) <= 10
    scores = without(folder, block, absent)
    assert list(scores) == LABELS
    return torch.tensor(list(scores.values()))


@pytest.mark.parametrize("method", ["multi-task", "group thresholds"])
def test_the_cards_lines_for_torch_run_without_fairnb(run, multi_task, by_group, photos, tmp_path, method):
    given = {"multi-task": multi_task[0], "group thresholds": by_group}[method]
    folder, photo = Path(shutil.copytree(given, tmp_path / "taken")), sorted(photos.iterdir())[5]
    found = of_the_cards_lines(folder, 1, ["fairnb", "onnx", "onnxruntime"], photo)
    same_predictions(found, scored_by_the_run(run, method, photo.name))  # the card names the first group


@pytest.mark.slow
@pytest.mark.parametrize("method", ["multi-task", "group thresholds"])
def test_the_cards_lines_for_onnx_run_without_fairnb_and_torch(run, whole, photos, tmp_path, method):
    folder, photo = Path(shutil.copytree(whole[method][0], tmp_path / "taken")), sorted(photos.iterdir())[5]
    found = of_the_cards_lines(folder, 0, ["fairnb", "torch", "torchvision"], photo)
    same_predictions(found, scored_by_the_run(run, method, photo.name))


@pytest.mark.slow
def test_the_cards_lines_run_where_nothing_else_is_installed(whole, photos, tmp_path):
    folder = Path(shutil.copytree(whole["multi-task"][0], tmp_path / "taken"))
    shutil.copy(next(photos.iterdir()), folder / "photo.jpg")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "numpy", "pillow", "onnxruntime"], check=True)
    alone = without(folder, blocks(folder)[0], [], python)
    assert alone == pytest.approx(without(folder, blocks(folder)[0], ["fairnb", "torch"]), abs=NEAR)


@pytest.mark.slow
def test_both_layers_and_merged_domains_travel_too(celeba, tmp_path):
    made = experiment(celeba, tmp_path, layers="all", mitigation="domain-independent", **WIDE)
    search = made.search("dynamic weighting")
    with without_onnx():
        folder, _ = exported(made, "dynamic weighting", tmp_path / "both")
        base, _ = exported(made, "base", tmp_path / "base")
    saved = load(folder)[1].network.state_dict()
    assert torch.equal(saved["1.weight"], search.heads.hidden[:, :-1])
    assert torch.equal(saved["3.bias"], search.heads.last[:, -1])
    scores, _ = predict(folder, celeba / "img_align_celeba")
    rows = made.faces.rows("test")
    expected = search.heads.logits(made.pooled_features()["test"]).T
    same_predictions(torch.tensor(scores.iloc[:, 1:].to_numpy()[rows]), expected)
    assert load_json(base / "config.json")["tolerance"] is None
    assert torch.equal(load(base)[1].network.state_dict()["3.bias"], made.heads()[:, -1])


def test_group_thresholds_are_one_network_and_numbers(run, by_group):
    config, network = load(by_group)
    assert config["needs_group"]
    heads, base = run.search("group thresholds").heads, run.heads()
    assert torch.equal(network.network.state_dict()["3.bias"], base[:, -1])
    for group, weights in zip(config["groups"], heads.weights, strict=True):
        assert config["thresholds"][group] == (base[:, -1] - weights[:, -1]).tolist()
    with pytest.raises(ValueError, match="differ between groups in more than their thresholds"):
        one_head(Heads(torch.stack([base, base * 2])), base)


LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ("vgg11", "vit_b_32", "inception_v3", "swin_t", "maxvit_t")]


@pytest.mark.parametrize("name", ["squeezenet1_1", "googlenet", "regnet_x_400mf", *LARGE])
def test_plain_torchvision_builds_the_same_network(name):
    size = {"vit_b_32": 224, "maxvit_t": 224, "inception_v3": 299}.get(name, 64)
    model = build_model(name, 3, hidden=4).eval()
    arguments = arguments_of(name)
    import torchvision

    whole = torchvision.models.get_model(name, **arguments)
    config = {
        "backbone": name, "arguments": json.loads(json.dumps(arguments)), "classifier": classifier_of(whole),
        "features": model.hidden.in_features, "hidden": 4, "labels": ["a", "b", "c"],
    }  # fmt: skip
    network = plain(config)
    network.load_state_dict(renamed(model.state_dict()))
    images = torch.rand(2, 3, size, size)
    with torch.inference_mode():
        torch.testing.assert_close(network(images), model(images))


def test_pretrained_weights_leave_their_mark_on_the_arguments():
    assert arguments_of("googlenet", "IMAGENET1K_V1")["transform_input"] is True
    assert arguments_of("googlenet")["transform_input"] is False
    assert arguments_of("vit_b_16", "IMAGENET1K_SWAG_E2E_V1")["image_size"] == 384
    assert arguments_of("resnet18", "IMAGENET1K_V1") == {"weights": None}


def test_networks_that_disagree_are_not_exported():
    scores = torch.tensor([[1.0, -2.0], [1e-6, 3.0]])
    found = Agreement.of(scores, scores - torch.tensor([[0.0, 0.0], [2e-6, 0.001]]))
    assert (found.images, found.predictions, found.differ) == (2, 4, 1)
    assert found.largest == pytest.approx(0.001, rel=1e-3)
    assert found.nearest == pytest.approx(1e-6)
    assert "1 of 4 predictions differ, all with a score within 1e-06 of 0" in str(found)
    with pytest.raises(ValueError, match=r"logits differ by 0\.5 from the run's: nothing was exported"):
        Agreement.of(scores + 0.5, scores)


# --- the card --------------------------------------------------------------------------------------------------------


def test_the_card_has_the_hubs_metadata_and_says_what_was_measured(run, multi_task):
    written = ModelCard.load(multi_task[0] / "README.md")
    assert (written.data.library_name, written.data.pipeline_tag) == ("fairnb", "image-classification")
    rows = run.labels().query("method == 'multi-task' and split == 'test' and analysed")
    values = {result.metric_type: result.metric_value for result in written.data.eval_results}
    assert values == pytest.approx({"accuracy": rows.accuracy.mean(), "uei": rows.uei.mean()})
    groups = run.groups().query("method == 'multi-task' and split == 'test'")
    for row in groups[groups.label.isin(rows.label)].itertuples():
        us = "–" if np.isnan(row.us) else f"{row.us:.3f}"
        line = f"| {row.label} | {row.group} | {row.n} | {row.positives} | {row.predicted_positives} | {us} "
        assert line in written.text
    assert "| multi-task (this model) | inferred |" in written.text
    assert "| group thresholds | given |" in written.text
    assert "Who labelled these images is not stated" in written.text
    assert "may infer the group from the image" in " ".join(written.text.split())
    for section in (
        "Intended use",
        "Groups, and who decided them",
        "What was tried and not taken",
        "Limits",
        "How to use it",
    ):
        assert f"\n## {section}\n" in written.text


def frames(labels, groups=("female", "male")):
    draw = torch.Generator().manual_seed(0)
    truth = torch.rand(60, len(labels), generator=draw) < 0.4
    features = Features(torch.zeros(60, 1), truth, torch.randint(len(groups), (60,), generator=draw), len(groups))
    predicted = torch.rand(len(labels), 60, generator=draw) < 0.4
    by, of, _ = assessed(features, predicted, labels, "Male", groups, draws=50, seed=0)
    return of, by


def test_names_are_data_on_a_card(multi_task, run):
    names = ["Bald|Grey", "_Young_", "a*b*\nc", "5_o_Clock"]
    config = load_json(multi_task[0] / "config.json") | {"labels": [*names, "<left>"], "analysed": names}
    labels, groups = frames(names, ["wo|men", "men"])
    tried = pd.DataFrame(
        [("base", "test", "x", True, 0.9, 0.1)], columns=["method", "split", "label", "analysed", "accuracy", "uei"]
    )
    shown = card(
        config | {"groups": ["wo|men", "men"]}, labels, groups, tried, Stated("mit", "a *classifier*: silver labels")
    )
    for line in (line for line in shown.splitlines() if line.startswith("|")):
        assert len(re.findall(r"(?<!\\)\|", line)) in (7, 9)
    assert r"| Bald\|Grey | wo\|men |" in shown
    assert r"| \_Young\_ |" in shown
    assert r"| a\*b\* c |" in shown
    assert "| 5_o_Clock |" in shown
    assert r"Nothing is claimed about these: \<left\>." in shown
    assert r"says of the labels: a \*classifier\*: silver labels." in shown
    assert "The run holds no other model." in shown
    assert ModelCard(shown).data.to_dict()["license"] == "mit"


def test_a_card_of_drawn_faces_says_so_plainly(multi_task):
    config = load_json(multi_task[0] / "config.json")
    config["dataset"] |= {"layout": "drawn", "name": "drawn faces", "told": ["one | two"]}
    labels, groups = frames(config["labels"])
    with_ends = {
        f"{name}{end}": labels[name] + shift for name in ("uei",) for end, shift in (("_low", -0.01), ("_high", 0.02))
    }
    shown = card(config, labels.assign(**with_ends), groups, pd.DataFrame(columns=["method"]), Stated())
    assert "Nobody in these data exists" in shown
    assert "of no use on photographs" in shown
    assert "drawn-faces" in ModelCard(shown).data.to_dict()["tags"]
    assert r"- one \| two" in shown
    uei = labels.uei[0]
    assert f"| {config['labels'][0]} | {uei:.3f} ({uei - 0.01:.3f}–{uei + 0.02:.3f}) |" in shown
    assert "not stated: ask" not in shown


def test_tables_of_a_card_by_hand():
    assert table(["a", "n"], [["x|y", 1]]) == "| a | n |\n| :-- | --: |\n| x\\|y | 1 |"
    assert text("__init__ [x](y) $1$ `z`") == r"\_\_init\_\_ \[x\](y) \$1\$ \`z\`"


# --- predictions -----------------------------------------------------------------------------------------------------


def test_predictions_of_a_folder_are_the_runs_own(run, multi_task, photos, tmp_path):
    folder, _ = multi_task
    done = CliRunner().invoke(app, ["predict", str(folder), str(photos), "--out", str(tmp_path / "p.csv")])
    assert done.exit_code == 0, done.output
    assert "48 images are in" in done.output
    found = pd.read_csv(tmp_path / "p.csv")
    assert list(found) == ["image", *(f"{label}_score" for label in LABELS)]
    rows = run.faces.rows("test")
    assert found.image.tolist() == [run.faces.images.names[row] for row in rows.tolist()]
    model = run.base_model().model
    model.replace_heads(run.search("multi-task").heads.last)
    same_predictions(torch.tensor(found.iloc[:, 1:].to_numpy(), dtype=torch.float32), run.logits(model, "test"))


@pytest.mark.parametrize("method", ["multi-task", "group thresholds"])
def test_what_is_predicted_is_assessed_as_the_run_was(run, multi_task, by_group, photos, celeba, tmp_path, method):
    """To the last digit of groups.csv, but for logits next to 0, of which there is none here."""
    table, given = celeba / "list_attr_celeba.txt", {"multi-task": multi_task[0], "group thresholds": by_group}[method]
    words = ["--groups", str(table), "--group", "Male"] if method == "group thresholds" else []
    done = CliRunner().invoke(app, ["predict", str(given), str(photos), "--out", str(tmp_path / "p.csv"), *words])
    assert done.exit_code == 0, done.output
    words = [str(tmp_path / "p.csv"), str(table), "--group", "Male", "--draws", "0", "--csv", str(tmp_path)]
    done = CliRunner().invoke(app, ["assess", *words])
    assert done.exit_code == 0, done.output
    rows = run.groups().query(f"method == '{method}' and split == 'test'").reset_index(drop=True)
    columns = ["label", "group", "n", "positives", "predicted_positives", "us"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "groups.csv")[columns], rows[columns], check_dtype=False)


def test_a_zip_a_folder_below_and_parquet_give_the_same(multi_task, photos, tmp_path):
    folder, _ = multi_task
    shutil.copytree(photos, tmp_path / "above" / "below")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for path in photos.iterdir():
            archive.write(path, f"photos/{path.name}")
    direct = predict(folder, photos)[0]
    pd.testing.assert_frame_equal(predict(folder, tmp_path / "z.zip")[0], direct)
    below = predict(folder, tmp_path / "above")[0]
    assert below.image.tolist() == [f"below/{name}" for name in direct.image]
    pd.testing.assert_frame_equal(below.drop(columns="image"), direct.drop(columns="image"))
    done = CliRunner().invoke(app, ["predict", str(folder), str(photos), "--out", str(tmp_path / "p.parquet")])
    assert done.exit_code == 0, done.output
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "p.parquet"), direct, check_dtype=False)


def test_broken_images_are_counted_and_named_and_the_others_kept(multi_task, photos, tmp_path):
    folder, _ = multi_task
    some = tmp_path / "some"
    some.mkdir()
    for path in sorted(photos.iterdir())[:3]:
        shutil.copy(path, some)
    (some / "a.jpg").write_bytes(b"nothing")
    (some / "z.png").write_bytes((some / "a.jpg").read_bytes())
    (some / "notes.txt").write_text("no image")
    done = CliRunner().invoke(app, ["predict", str(folder), str(some), "--out", str(tmp_path / "p.csv")])
    assert done.exit_code == 0, done.output
    assert "3 images are in" in done.output
    assert "2 cannot be decoded and have no row: a.jpg, z.png (not an image)" in done.output.replace("\n", " ")
    assert pd.read_csv(tmp_path / "p_failed.csv").image.tolist() == ["a.jpg", "z.png"]
    alone = pd.read_csv(tmp_path / "p.csv")
    np.testing.assert_allclose(alone.iloc[:, 1:], predict(folder, photos)[0].iloc[:3, 1:], atol=NEAR)
    for path in some.glob("0*.jpg"):
        path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"none of the 5 images in .* can be decoded: not an image"):
        predict(folder, some)


def test_a_models_groups_are_read_from_a_table(run, by_group, photos, celeba, tmp_path):
    test, rows = run.features()["test"], run.faces.rows("test")
    expected = run.search("group thresholds").heads.logits(test).T
    names = [run.faces.images.names[row] for row in rows.tolist()]
    words = pd.DataFrame({"image": names, "who": [run.faces.group_names[code] for code in test.group.tolist()]})
    words.to_csv(tmp_path / "words.csv", index=False)
    for file, column in ((tmp_path / "words.csv", "who"), (celeba / "list_attr_celeba.txt", "Male")):
        scores, failed = predict(by_group, photos, groups=file, columns=[column])
        same_predictions(torch.tensor(scores.iloc[:, 1:].to_numpy()), expected)
        assert failed.empty
    words[2:].to_csv(tmp_path / "less.csv", index=False)
    twice = tmp_path / "twice"
    for part in ("a", "b"):
        (twice / part).mkdir(parents=True)
        shutil.copy(photos / names[0], twice / part)
    with pytest.raises(ValueError, match=f"of 2 of 2 images: a/{names[0]}, b/{names[0]}"):  # which is meant?
        predict(by_group, twice, groups=tmp_path / "words.csv", columns=["who"])
    here = pd.DataFrame({"image": [f"a/{names[0]}", f"b/{names[0]}"], "who": ["male", "female"]})
    here.to_csv(tmp_path / "here.csv", index=False)
    first, second = predict(by_group, twice, groups=tmp_path / "here.csv", columns=["who"])[0].iloc[:, 1:].to_numpy()
    limits = load_json(by_group / "config.json")["thresholds"]
    np.testing.assert_allclose(second - first, np.subtract(limits["male"], limits["female"]), atol=NEAR)
    for groups, columns, message in (
        (None, (), "has a threshold for each group by Male: give --groups TABLE --group COLUMN"),
        (tmp_path / "words.csv", (), "name the column of groups by --group"),
        (tmp_path / "words.csv", ("whom",), "unknown column 'whom': did you mean 'who'"),
        (tmp_path / "less.csv", ("who",), rf"tells no group \(female, male\) of 2 of 48 images: {names[0]}, {names[1]}"),
        (
            tmp_path / "words.csv",
            ("who", "image"),
            "give --group for each of Male, in this order, or for one column of female, male",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            predict(by_group, photos, groups=groups, columns=columns)


# --- bad input -------------------------------------------------------------------------------------------------------


def test_drawn_faces_are_exported_and_predicted(tmp_path):
    given = (
        RECIPE.model_dump()
        | SEARCH
        | WIDE
        | {"epochs": 1, "resize": 34, "image_size": 32, "min_positives": 2, "device": "cpu"}
    )
    made = Experiment.open("drawn", runs=tmp_path, **given, targets=["Smiling", "Bangs", "Young"], drawn=[96, 40, 30])
    made.features()
    with without_onnx():
        folder, _ = exported(made, "base", tmp_path / "taken")
    assert "Nobody in these data exists" in (folder / "README.md").read_text()
    assert load_json(folder / "config.json")["dataset"]["name"] == "drawn faces"
    (tmp_path / "faces").mkdir()
    for place, image in enumerate(made.faces.images.read(made.faces.rows("test").tolist(), 34)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "faces" / f"{place:02d}.png")
    scores, _ = predict(folder, tmp_path / "faces")
    same_predictions(torch.tensor(scores.iloc[:, 1:].to_numpy()), made.logits(made.base_model().model, "test"))


def test_what_cannot_be_exported_is_said_in_a_line(run, multi_task, tmp_path, monkeypatch):
    def says(*words):
        done = CliRunner().invoke(app, ["export", *map(str, words)])
        assert done.exit_code == 1, done.output
        assert "Traceback" not in done.output
        return " ".join(done.output.split())

    new = tmp_path / "new"
    assert "unknown method 'multitask': did you mean 'multi-task'?" in says(run.folder, "--method", "multitask", "--to", new)
    missing = says(run.folder, "--method", "soft UEI", "--to", new)
    assert "has no result of 'soft UEI', only of base, multi-task, group thresholds" in missing
    assert "is no finished run: there is no run.json" in says(tmp_path, "--to", new)
    assert "is not empty: name a new folder" in says(run.folder, "--to", multi_task[0])
    assert "unknown input 'int8': did you mean 'uint8'?" in says(run.folder, "--to", new, "--input", "int8")
    monkeypatch.setattr("fairnb.export.folder.find_spec", lambda name: None if name == "onnxruntime" else 1)
    assert 'needs onnxruntime: pip install "fairnb[export]"' in says(run.folder, "--to", new)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_predicted_is_said_in_a_line(multi_task, photos, tmp_path):
    folder, _ = multi_task
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"is no exported model: there is no config\.json, model\.safetensors"):
        predict(tmp_path, photos)
    with pytest.raises(FileNotFoundError, match="empty holds no images"):
        predict(folder, tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="neither a folder nor a zip of images"):
        predict(folder, tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"same thresholds for all groups: leave out --groups"):
        predict(folder, photos, groups=tmp_path / "g.csv", columns=["Male"])
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    save_json(other / "config.json", load_json(other / "config.json") | {"hidden": 9})
    with pytest.raises(ValueError, match=r"model\.safetensors and config\.json do not fit: size mismatch"):
        predict(other, photos)
    save_json(other / "config.json", {"format": 99})
    with pytest.raises(ValueError, match="exported by another version of fairnb"):
        predict(other, photos)


def test_a_folder_that_fails_leaves_nothing(tmp_path):
    def breaks():
        with folder_beside(tmp_path / "a" / "b") as folder:
            (folder / "x").write_text("x")
            raise MemoryError

    with pytest.raises(MemoryError):
        breaks()
    assert list((tmp_path / "a").iterdir()) == []
    (tmp_path / "empty").mkdir()
    with folder_beside(tmp_path / "empty") as folder:
        (folder / "x").write_text("x")
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["x"]


def test_a_sweeps_run_is_opened_by_its_own_name(run, tmp_path):
    shutil.copytree(run.folder, tmp_path / "sweep" / "seed=0")
    known = load_json(tmp_path / "sweep" / "seed=0" / "run.json")
    known["parameters"]["run"] = known["run"] = "sweep/seed=0"
    save_json(tmp_path / "sweep" / "seed=0" / "run.json", known)
    found = open_run(tmp_path / "sweep" / "seed=0", "multi-task")
    assert (found.parameters.run, found.record.runs) == ("sweep/seed=0", tmp_path.resolve())
