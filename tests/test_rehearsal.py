"""What would happen on a GPU, tried where there is none: see `tests.rehearsal`.

The whole road runs on a rehearsed "cuda", from images to a model that is taken away. No two devices are mixed, an iteration
of the swarms and a step of the training keep no host waiting, and results are the CPU's where both draw the same numbers.
"""

import re
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError

from fairnb import training
from fairnb.data import read_celeba
from fairnb.data.feeding import Feed
from fairnb.experiment import Experiment
from fairnb.export import folder
from fairnb.features import extract_features
from fairnb.heads import Heads, Scorer, uei_and_error
from fairnb.methods import METHODS, Method, Parameters, recalibration
from fairnb.methods.thresholds import label_thresholds
from fairnb.metrics import contingency_table
from fairnb.run.device import join_group, make_fabric, resolve
from fairnb.run.parameters import Swarm
from fairnb.swarm.mopso import mopso
from fairnb.training import train_base
from fairnb.yours import mitigate
from tests import conftest, test_baselines, test_heads
from tests.rehearsal import CUDA, Rehearsal

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: benchmarks/gpu.py tries the real one")
RECIPE = conftest.LEARNS.but(dropout=0.0)  # which is drawn in another way on a GPU
SLOW = pytest.mark.slow
GIVEN = Parameters(particles=8, iterations=2, gradient_steps=3, noise=0.0)  # a GPU draws noise for all particles


@pytest.fixture
def gpu():
    with Rehearsal() as rehearsal:
        yield rehearsal


@pytest.fixture
def few_fits(monkeypatch):
    """A recalibration of two folds and one reach, each of which takes many small steps."""
    monkeypatch.setattr(recalibration, "REACHES", (0.5,))
    monkeypatch.setattr(recalibration, "FOLDS", 2)


def same(one, other):
    """Whether values on the rehearsed GPU, or on the CPU, are these."""
    return torch.equal(getattr(one, "value", one), other)


def test_a_mix_of_devices_is_refused(gpu):
    on_gpu, here = torch.rand(3, 4, device=CUDA), torch.rand(4, 2)
    with pytest.raises(FakeTensorDeviceMismatchError, match="cuda:0 and cpu"):
        on_gpu @ here
    with pytest.raises(FakeTensorDeviceMismatchError):
        torch.stack([on_gpu.sum(), here.sum()])
    with pytest.raises(ValueError, match="the generator is on cpu, the start on cuda:0"):
        mopso(lambda x: x, torch.rand(1, 5, 2).to(CUDA), Swarm(particles=5), generator=torch.Generator())


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(), lambda x: bool(x.any()), lambda x: x.nonzero(), lambda x: x[x > 0.5], lambda x: x.cpu(),
        lambda x: x.tolist(), lambda x: x.new_tensor([1.0]), lambda x: x.copy_(torch.ones(3, 4)),
        lambda x: x.masked_select(x > 0.5), lambda x: torch.ones(3, 4).to(CUDA), lambda x: x.unique(),
        lambda x: x[torch.tensor([0])],
    ],
)  # fmt: skip
def test_whatever_keeps_the_host_waiting_is_counted(gpu, wait):
    x = torch.rand(3, 4, device=CUDA)
    torch.ones(3, 4).to(CUDA, non_blocking=True)
    assert not gpu.waits
    wait(x)
    assert gpu.waits.total() >= 1


def fly(device, watch=None, objectives=uei_and_error, **settings):
    """A search of heads on few features, from one start."""
    problem = test_baselines.make()
    features, swarm = problem.features.to(device), Swarm(particles=12, iterations=2, repository=9, **settings)
    score, draw = Scorer(features), torch.Generator(device).manual_seed(1)
    start = problem.heads.unsqueeze(1) + torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(0))
    bounds = (-9.0, 9.0) if settings.get("turbulence") == 0.4 else None
    return mopso(
        lambda x: objectives(score(x)), start.to(device), swarm, generator=draw, scale=0.3, bounds=bounds, watch=watch
    )  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"noise": 0.0}, {"flight": "constricted"}, {"flight": "constricted", "noise": 0.0},
        {"flight": "constricted", "turbulence": 0.0}, {"flight": "constricted", "turbulence": 0.4},
    ],
)  # fmt: skip
def test_no_iteration_of_a_swarm_keeps_the_host_waiting(gpu, settings):
    seen = []
    fronts = fly(CUDA, lambda *_: seen.append(gpu.waits.total()), **settings)
    assert seen[1:] == [seen[0]] * 2, gpu.waits
    if settings.get("flight") == "constricted" or settings.get("noise") == 0:  # else a GPU draws noise for all particles
        expected = fly("cpu", **settings)
        assert same(fronts.positions, expected.positions)
        assert same(fronts.hypervolume, expected.hypervolume)


def test_an_iteration_that_keeps_the_host_waiting_is_found(gpu):
    seen = []
    fly(CUDA, lambda *_: seen.append(gpu.waits.total()), lambda tables: uei_and_error(tables) + float(tables.sum()) * 0)
    assert torch.tensor(seen).diff().tolist() == [1, 1]


@pytest.mark.parametrize("steer", ["float32", "bfloat16"])
def test_heads_and_both_layers_are_scored_without_waiting(gpu, steer):
    features, hidden = test_heads.make(), torch.randn(7, 5, 13, generator=torch.Generator().manual_seed(2))
    one = (test_heads.some_heads(), None), (test_heads.some_heads(columns=5), hidden)
    there = Scorer(features.to(CUDA), torch.tensor([2, 0]), dtype=steer)
    for heads, below in one:
        heads, on_gpu = heads[[2, 0]], None if below is None else below.to(CUDA)
        moved = heads.to(CUDA)
        gpu.waits.clear()
        tables = there(moved, on_gpu)
        assert not gpu.waits
        assert same(tables, Scorer(features, torch.tensor([2, 0]), dtype=steer)(heads, below))


def test_tables_of_predictions_are_the_same(gpu):
    features, heads = test_heads.make(), test_heads.some_heads(particles=2).transpose(0, 1)
    on_gpu = features.to(CUDA)
    assert same(Heads(heads.to(CUDA)).tables(on_gpu), Heads(heads).tables(features))
    predicted = heads[0, :, :-1] @ features.x.T > 0
    table = contingency_table(predicted.to(CUDA), on_gpu.labels.T, on_gpu.group)
    assert same(table, contingency_table(predicted, features.labels.T, features.group))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[SLOW] * (one.start == "recalibrated"))  # by hundreds of small steps
        for name, one in METHODS.items() if one.find and not one.library
    ],
)  # fmt: skip
def test_every_method_finds_on_a_gpu_what_it_finds_on_the_cpu(gpu, few_fits, name):
    method, problem, given = (
        METHODS[name],
        test_baselines.make(),
        GIVEN.but(held_out=0.4, indifference=0.5, no_label_worse=True),
    )
    found = method.search(replace(problem, features=problem.features.to(CUDA)), given)
    expected = method.search(problem, given)
    assert found.picked == expected.picked
    assert same(found.heads.weights, expected.heads.weights)
    assert same(found.fronts.objectives, expected.fronts.objectives)


@pytest.mark.parametrize("name", [name for name, one in METHODS.items() if one.library])
def test_methods_of_other_libraries_search_on_the_cpu(gpu, monkeypatch, name):
    monkeypatch.setattr(Method, "require", lambda _: None)

    def find(problem, given):
        parts = (*problem.features.tensors().values(), problem.start, problem.base)
        assert all(type(part) is torch.Tensor for part in parts)
        return label_thresholds(problem)

    problem = test_baselines.make()
    there = replace(problem, features=problem.features.to(CUDA))
    assert same(
        replace(METHODS[name], find=find).search(there, GIVEN).heads.weights, label_thresholds(problem).heads.weights
    )


@pytest.mark.parametrize(
    "more",
    [{"whiten": True, "steer": "bfloat16", "flight": "constricted"}, pytest.param({"start": "recalibrated"}, marks=SLOW)],
)
def test_every_way_to_search_heads_runs_on_a_gpu(gpu, few_fits, more):
    problem, given = test_baselines.make(), GIVEN.but(**more)
    for name in ("multi-task", "dynamic weighting"):
        found = METHODS[name].search(replace(problem, features=problem.features.to(CUDA)), given)
        assert same(found.heads.weights, METHODS[name].search(problem, given).heads.weights)


@pytest.mark.parametrize("steer", ["float32", "bfloat16"])
def test_both_layers_move_on_a_gpu(gpu, steer):
    problem = test_baselines.make(columns=5)
    draw = torch.Generator().manual_seed(3)
    problem = replace(problem, heads=torch.randn(2, 4, generator=draw), hidden=torch.randn(3, 6, generator=draw))
    given = GIVEN.but(layers="all", steer=steer)
    found = METHODS["dynamic weighting"].search(replace(problem, features=problem.features.to(CUDA)), given)
    expected = METHODS["dynamic weighting"].search(problem, given)
    assert same(found.heads.hidden, expected.heads.hidden)
    assert same(found.heads.weights, expected.heads.weights)


@pytest.fixture(scope="module")
def faces(celeba):
    return read_celeba(celeba)


def few_layers(*_, **__):
    """A backbone of a few layers in place of a ResNet, so that a step takes a moment."""
    one = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(inplace=True)]
    return nn.Sequential(*one, nn.Conv2d(8, 8, 3), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 9))


def train(faces, folder, device, recipe):
    fabric = make_fabric(device, recipe.precision)
    feed = Feed(faces.images, recipe.resize, recipe.image_size, cache=folder / "cache", fabric=fabric, workers=0)
    base = train_base(faces, recipe, folder / device, feed)
    return base, {layer: extract_features(faces, base.model, feed, layer=layer) for layer in ("penultimate", "pooled")}


@pytest.mark.parametrize(
    "more",
    [
        {"mitigation": "domain-independent", "schedule": "one-cycle"},
        pytest.param({"mitigation": "reweighing"}, marks=SLOW),
        pytest.param({"precision": "bf16-mixed", "dropout": 0.5}, marks=SLOW),
    ],
)  # fmt: skip
def test_a_training_on_a_gpu_is_the_cpus_and_no_step_keeps_the_host_waiting(gpu, faces, tmp_path, monkeypatch, more):
    recipe, step, waits = RECIPE.but(epochs=1, **more), training._Training._step, []

    def counted(*given):
        before = gpu.waits.copy()
        loss = step(*given)
        waits.append(gpu.waits - before)
        return loss

    monkeypatch.setattr(training._Training, "_step", counted)
    monkeypatch.setattr("torchvision.models.get_model", few_layers)
    base, features = train(faces, tmp_path, "cuda", recipe)
    assert len(waits) == 3
    assert not any(waits), waits
    assert next(base.model.parameters()).device == CUDA
    for name, parts in features.items():
        assert all(type(part.x) is torch.Tensor for part in parts.values()), f"{name} features stay on the CPU"
    expected, own = train(faces, tmp_path, "cpu", recipe)
    assert base.history.loss.notna().all()
    if not recipe.dropout:  # which is drawn in another way on a GPU
        pd.testing.assert_series_equal(base.history.loss, expected.history.loss)
        for name, parts in features.items():
            torch.testing.assert_close(parts["valid"].x, own[name]["valid"].x)


@pytest.mark.slow
def test_the_whole_road_runs_on_a_gpu(gpu, celeba, tmp_path, monkeypatch):
    """Experiment, searches of one layer and of both, their tables, and a model to take away."""
    given = {**RECIPE.but(epochs=1).model_dump(), "data": "celeba", "data_root": celeba, "min_positives": 2, "workers": 0}
    given |= {"particles": 8, "iterations": 2, "noise": 0.0, "layers": "all"}
    monkeypatch.setattr("torchvision.models.get_model", few_layers)
    tables, networks = [], []
    for device in ("cuda", "cpu"):
        experiment = Experiment.open(device, runs=tmp_path, device=device, **given)
        for method in ("multi-task", "dynamic weighting"):
            experiment.search(method)
        tables.append(experiment.labels())
        problem = experiment.problem(device=experiment.device)
        assert problem.start.device.type == problem.generator("").device.type == experiment.device
    pd.testing.assert_frame_equal(tables[0], tables[1])

    def written(path, network, config):  # the exporter has fake tensors of its own
        assert all(type(one) is nn.Parameter for one in network.parameters()), "what is written lies on the CPU"
        networks.append(network)
        return 18

    monkeypatch.setattr(folder, "write_onnx", written)
    monkeypatch.setattr(folder, "run_onnx", lambda path, images, config: [networks[0](batch) for batch in images])
    folder.export(tmp_path / "cuda", "multi-task", tmp_path / "taken", say=lambda _: None)
    assert (tmp_path / "taken" / "model.safetensors").exists()


def test_a_module_on_a_gpu_is_mitigated(gpu):
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    x, group = torch.randn(600, 6, generator=draw), torch.randint(2, (600,), generator=draw)
    labels = x[:, :2] + 0.5 * torch.randn(600, 2, generator=draw) > 0.5
    batches = list(zip(x.split(100), labels.split(100), group.split(100), strict=True))
    given: Any = {"particles": 8, "iterations": 2, "noise": 0.0, "names": ["a", "b"]}
    expected = mitigate(batches[:3], batches[3:], module=module, **given)
    found = mitigate(batches[:3], batches[3:], module=module.to(CUDA), **given)
    assert same(found.head, expected.head)
    assert found.module(x.to(CUDA)).device == CUDA


def test_precision_and_devices_are_what_the_card_has(gpu, monkeypatch):
    assert resolve() == ("cuda", "bf16-mixed")
    assert make_fabric("cuda").device == CUDA
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert resolve() == ("cuda", "32-true")
    assert resolve(precision="bf16-mixed") == ("cuda", "bf16-mixed")  # slow, but asked for
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: False)
    with pytest.raises(ValueError, match="precision='bf16-mixed' is beyond this GPU, a rehearsed GPU: choose '32-true'"):
        resolve(precision="bf16-mixed")
    with pytest.raises(ValueError, match="devices=2, but this machine has 1 for device 'cuda'"):
        join_group("cuda", devices=2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    with pytest.raises(ValueError, match="devices=3, but this machine has 1 for device 'mps'"):
        join_group("mps", devices=3)


def test_a_machine_without_a_compiler_is_named(faces, tmp_path, monkeypatch):
    def none(_):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nSet TORCHDYNAMO_VERBOSE=1")

    monkeypatch.setattr(torch, "compile", none)
    with pytest.raises(ValueError, match=r"compiled=True, but torch.compile fails here: Invalid.* compiler found$"):
        train(faces, tmp_path, "cpu", RECIPE.but(compiled=True))
    assert not (tmp_path / "cache").exists()


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_the_benchmark_says_that_it_was_not_run(monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from gpu import PARTS, alone, main

    monkeypatch.setattr("sys.argv", ["gpu.py"])
    assert main() == 77
    assert capsys.readouterr().out == "not run: there is no GPU on this machine\n"
    assert sum(seconds for _, seconds in PARTS.values()) <= 600
    assert alone("layers", Namespace(device="cpu", small=True), 0.01) == "not finished within 0 s"
    monkeypatch.setattr("sys.argv", ["gpu.py", "--device", "cpu", "--minutes", "0", "--only", "layers"])
    assert main() == 1
    assert "no time left" in capsys.readouterr().out


@pytest.mark.slow
def test_all_of_the_benchmark_but_the_book_runs_in_small_on_a_cpu():
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--device", "cpu", "--small", "--here", "--only"]
    done = subprocess.run([*command, "training", "iteration", "layers", "tables"], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr  # in small an iteration is longer than its product
    assert "the CPU's base                        0.00000" in done.stdout
    assert len(re.findall(r"(True|False)$", done.stdout, re.MULTILINE)) == 8  # claims
