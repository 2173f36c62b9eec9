import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fairnb import heads as scoring
from fairnb.features import Features
from fairnb.heads import Heads, Scorer
from fairnb.methods.multi_task import multi_task
from fairnb.methods.problem import Problem
from fairnb.metrics import contingency_table
from fairnb.run.files import load_notes
from fairnb.run.parameters import Settings, Swarm
from fairnb.swarm.mopso import Flight


def make(rows=5000, columns=12, labels=3, groups=2):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, columns, generator=draw).relu()
    truth = x[:, :labels] + 0.5 * torch.randn(rows, labels, generator=draw) > 1.4
    return Features(x, truth, torch.randint(groups, (rows,), generator=draw), groups)


def some_heads(particles=7, labels=3, columns=12):
    return torch.randn(labels, particles, columns + 1, generator=torch.Generator().manual_seed(1))


def test_predictions_and_tables_by_hand():
    features = Features(
        torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[1], [0], [1]]).bool(), torch.tensor([0, 1, 1]), 2
    )
    heads = Heads(torch.tensor([[[1.0, -1.5]]]))  # positive above 1.5
    assert heads.logits(features).tolist() == [[-0.5, 0.5, 1.5]]
    assert heads.predict(features).tolist() == [[False, True, True]]
    assert heads.tables(features).tolist() == [[[[0, 0], [1, 0]], [[0, 1], [0, 1]]]]
    assert not heads.by_group
    assert torch.equal(heads.last, heads.weights[0])


def test_heads_for_each_group_answer_for_their_own():
    features, heads = make(rows=200), some_heads(particles=2).transpose(0, 1)  # [G, L, D + 1]
    both, each = Heads(heads), [Heads(heads[g : g + 1]) for g in range(2)]
    own = torch.where(features.group == 0, each[0].predict(features), each[1].predict(features))
    assert torch.equal(both.predict(features), own)
    assert torch.equal(both.logits(features) > 0, own)
    for g in range(2):
        assert torch.equal(both.tables(features)[:, g], each[g].tables(features)[:, g])
    assert both.by_group
    with pytest.raises(ValueError, match="these are heads of 2 groups, and a network has one last layer"):
        _ = both.last


def test_heads_of_some_labels_are_theirs():
    features, hidden = make(rows=200), torch.randn(5, 13, generator=torch.Generator().manual_seed(2))
    for weights, below in ((some_heads(particles=2), None), (some_heads(particles=1, columns=5), hidden)):
        heads = Heads(weights.transpose(0, 1), below)
        for labels in (torch.tensor([2, 0]), torch.tensor([True, False, True])):
            assert torch.equal(heads.of(labels).predict(features), heads.predict(features)[labels])
            assert torch.equal(heads.of(labels).tables(features.of_labels(labels)), heads.tables(features)[labels])


@pytest.mark.parametrize("groups", [2, 3])
def test_tables_are_those_of_the_predictions(groups):
    features, heads = make(groups=groups), some_heads()
    expected = torch.stack([Heads(heads[:, p].unsqueeze(0)).tables(features) for p in range(7)], dim=1)
    assert torch.equal(Scorer(features)(heads), expected)
    chosen = torch.tensor([2, 0])
    assert torch.equal(Scorer(features, chosen)(heads[chosen]), expected[chosen])


def test_bfloat16_counts_every_image_once():
    """Its product is rounded, its counts are not: each table is that of its own predictions."""
    features, heads = make(), some_heads()
    tables = Scorer(features, dtype="bfloat16")(heads)
    assert bool((tables.sum((-3, -2, -1)) == 5000).all())
    assert torch.equal(tables.sum(-1), Scorer(features)(heads).sum(-1))  # groups and truth
    # With whole numbers bfloat16 rounds nothing.
    whole = Features((features.x * 4).round(), features.labels, features.group, 2)
    heads = heads.sign() * torch.tensor([1.0] * 12 + [0.5])
    assert torch.equal(Scorer(whole, dtype="bfloat16")(heads), Scorer(whole)(heads))


def test_both_layers_moving_is_the_network_of_each_particle():
    features, draw = make(rows=700), torch.Generator().manual_seed(2)
    hidden = torch.randn(7, 5, 13, generator=draw)
    heads = some_heads(columns=5)
    tables = Scorer(features)(heads, hidden)
    for p in range(7):
        active = (features.x @ hidden[p, :, :-1].T + hidden[p, :, -1]).relu()
        predicted = active @ heads[:, p, :-1].T + heads[:, p, -1] > 0
        assert torch.equal(tables[:, p], contingency_table(predicted.T, features.labels.T, features.group, 2))
        assert torch.equal(tables[:, p], Heads(heads[:, p].unsqueeze(0), hidden[p]).tables(features))


def test_a_few_particles_at_a_time_is_the_same(monkeypatch):
    features, hidden = make(rows=300), torch.randn(7, 5, 13, generator=torch.Generator().manual_seed(2))
    together = Scorer(features)(some_heads(columns=5), hidden)
    monkeypatch.setattr(scoring, "HIDDEN", 2 * 5 * 300)
    assert torch.equal(Scorer(features)(some_heads(columns=5), hidden), together)


def test_features_may_lie_in_a_file(tmp_path):
    features, path = make(), tmp_path / "x.bin"
    path.write_bytes(features.x.numpy().tobytes())
    mapped = torch.from_file(str(path), size=features.x.numel()).view_as(features.x)
    other = Features(mapped, features.labels, features.group, 2)
    assert torch.equal(Scorer(other)(some_heads()), Scorer(features)(some_heads()))


def test_what_is_summed_does_not_grow_with_the_images(monkeypatch):
    summed: list[int] = []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda counts: summed.append(counts.nbytes))
    first: Any = SimpleNamespace(world_size=2, global_rank=0)
    for rows in (5000, 100):
        score = Scorer(make(rows), fabric=first)
        summed.clear()
        score(some_heads())
        assert summed == [3 * 7 * 2 * 2 * 8]  # once, whatever the number of blocks


def test_bad_input_is_named():
    features = make(10)
    with pytest.raises(ValueError, match="10 rows in x, 9 rows in labels, 10 rows in group"):
        Features(features.x, features.labels[1:], features.group, 2)
    with pytest.raises(ValueError, match=r"unknown arithmetic \(steer\) 'float16': did you mean 'bfloat16'"):
        Scorer(features, dtype="float16")


def search(folder: str) -> None:
    """What each process of the test below runs: a search that saves itself, and goes on from what it finds saved."""
    from lightning_fabric import Fabric

    moves: list[None] = []
    move = Flight.move

    def count(flight: Flight) -> None:
        moves.append(None)
        move(flight)

    Flight.move = count  # type: ignore[method-assign, assignment]
    fabric = Fabric(accelerator="cpu")
    heads = torch.cat([torch.eye(3, 12), torch.full((3, 1), -1.9)], dim=1)
    saved = Path(folder) / "search.safetensors"
    swarm = Swarm(particles=20, iterations=30)
    found = multi_task(Problem(make(9000), heads, fabric=fabric, saved=saved), swarm, Settings(whiten=True))
    if fabric.is_global_zero:
        fronts = {"positions": found.fronts.positions, "objectives": found.fronts.objectives, "heads": found.heads.weights}
        notes = {"moves": str(len(moves))}
        save_file(fronts, Path(folder) / f"{fabric.world_size}.safetensors", notes)


@pytest.mark.slow
def test_any_number_of_processes_finds_the_same_front(tmp_path):
    """One, two, and four processes that go on from what two have saved at the 25th of 30 iterations."""
    moves = []
    for processes in (1, 2, 4):
        if processes < 4:
            (tmp_path / "search.safetensors").unlink(missing_ok=True)
        command = [sys.executable, "-m", "lightning_fabric.cli", "--accelerator=cpu", f"--devices={processes}"]
        done = subprocess.run(
            [*command, __file__, str(tmp_path)], capture_output=True, text=True, cwd=Path(__file__).parents[1]
        )
        assert done.returncode == 0, done.stderr
        moves.append(load_notes(tmp_path / f"{processes}.safetensors")["moves"])
    assert moves == ["30", "30", "5"]
    one, two, four = (load_file(tmp_path / f"{processes}.safetensors") for processes in (1, 2, 4))
    for name, value in one.items():
        assert torch.equal(value, two[name])
        assert torch.equal(value, four[name])


if __name__ == "__main__":
    search(sys.argv[1])
