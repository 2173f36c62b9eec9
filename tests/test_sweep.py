"""Sweeps: their plans, and runs on real Dask workers, some of which die."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from fairnb.evidence.swept import Swept, publish
from fairnb.run.parameters import Parameters
from fairnb.sweep.drive import Sweep, Where, job_script, run_sweep
from fairnb.sweep.plan import SweepFile, plan, read_sweep, sweep_schema

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SMALL = {"drawn": [200, 120, 120], "epochs": 1, "min_positives": 2, "image_size": 32, "resize": 34}
QUICK = SMALL | {"particles": 5, "iterations": 5}


def make(name="s", **own):
    return SweepFile(**{"name": name, "stages": ["multi-task"], "set": QUICK} | own)


def folders(what):
    return [one.parameters.run.split("/")[1] for one in plan(what, ROOT)]


def test_a_plan_by_hand(tmp_path):
    own = {"grid": {"seed": [0, 1], "tolerance": [0.01, 0.05]}, "zip": {"noise": [0, 0.2], "divisions": [5, 10]}}
    runs = plan(make(**own, runs=[{"sensitive": "Young"}]), ROOT)
    assert len(runs) == 2 * 2 * 2 + 1
    assert runs[1].parameters.run == "s/seed=0,tolerance=0.01,noise=0.2,divisions=10"
    assert runs[1].parameters == Parameters(**QUICK, run=runs[1].parameters.run, tolerance=0.01, noise=0.2)
    assert runs[-1].varied == {"seed": 0, "tolerance": 0.05, "noise": 0.1, "divisions": 10, "sensitive": "Young"}
    assert len({one.key for one in runs}) == len({one.parameters.run for one in runs}) == 9
    assert folders(make(grid={"seed": ["0", 0, 1]})) == ["seed=0", "seed=1"]  # one value, by two roads
    assert folders(make()) == ["one"]
    long = folders(make(grid={"targets": [["Bald", "Chubby", *["Smiling", "Young"] * 9], ["Bald"] * 25]}))
    assert len(set(long)) == 2
    assert max(map(len, long)) < 100


def test_settings_of_comparisons_share_their_runs():
    settings = {
        "a": {"method": "multi-task"},
        "b": {"method": "multi-task", "noise": 0},
        "c": {"method": "soft UEI", "against": "b"},
    }
    runs = plan(make(stages=[], comparisons={"x": settings, "y": {"a": {"method": "multi-task"}}}, grid={"seed": [3]}), ROOT)
    assert [(one.stages, len(one.trials)) for one in runs] == [(("multi-task", "soft UEI"), 3), (("multi-task",), 1)]
    assert [vars(trial) for trial in runs[1].trials] == [
        {"comparison": "x", "setting": "b", "method": "multi-task", "against": "a"}
    ]
    assert runs[0].trials[1].against == "b"


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"grid": {"sed": [0]}}, "unknown parameter 'sed': did you mean 'seed'?"),
        ({"grid": {"seed": ["x"]}}, "seed='x' must be a whole number"),
        ({"grid": {"seed": 3}}, "must be a list"),
        ({"grid": {"seed": []}}, "seed has no values"),
        ({"grid": {"epochs": [1]}}, "epochs is named twice"),
        ({"runs": [{"epochs": 1}]}, "epochs is named twice"),
        ({"zip": {"seed": [0, 1], "noise": [0]}}, r'differ in length: {"seed": 2, "noise": 1}'),
        ({"stages": ["multi-tas"]}, "did you mean 'multi-task'?"),
        ({"stages": []}, "one of chapters, stages and comparisons"),
        ({"stages": [], "chapters": ["99"]}, "unknown chapter '99'"),
        ({"grid": {"run": ["a"]}}, "run is not a parameter of a sweep"),
        ({"name": "a/b"}, "plain folder name"),
        ({"stages": [], "comparisons": {"x": {"a": {"noise": 0}}}}, "x, a: no method is named"),
        ({"stages": [], "comparisons": {"x": {"a": {"method": "base", "against": "d"}}}}, "unknown setting 'd'"),
        ({"grdi": {}}, "did you mean 'grid'?"),
    ],
)
def test_mistakes_are_named_before_anything_starts(own, words):
    with pytest.raises(ValueError, match=words.replace("?", r"\?").replace("(", r"\(")):
        plan(make(**own), ROOT)


def test_a_name_that_stands_twice_is_refused(tmp_path):
    (file := tmp_path / "s.yml").write_text("stages: [base]\nset: {seed: 1}\nset: {seed: 2}\n")
    with pytest.raises(ValueError, match="'set' stands twice"):
        read_sweep(file)
    file.write_text("stages: [base]\nset: {seed: 1}\n")
    assert read_sweep(file).name == "s"
    with pytest.raises(ValueError, match="seed is named twice, in set and by -p"):
        read_sweep(file, words=["seed=3"])
    with pytest.raises(ValueError, match="exclude each other"):
        Where(workers=2, scheduler="tcp://here:8786")


def test_the_files_of_the_checkout_are_whole():
    assert (ROOT / "params" / "sweeps" / "schema.json").read_text() == sweep_schema()
    for path in (ROOT / "params" / "sweeps").glob("*.yml"):
        assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")
        if "comparisons" not in path.read_text():  # these need the bench extra
            assert plan(read_sweep(path), ROOT)


def test_the_job_script_of_slurm(tmp_path):
    (file := tmp_path / "slurm.yml").write_text(
        "cluster: SLURMCluster\njobs: 4\narguments: {queue: gpu, cores: 8, processes: 1, memory: 32GB, interface: lo, "
        "walltime: '04:00:00', job_extra_directives: ['--gres=gpu:1']}\n"
    )
    script = job_script(file)
    lines = [line for line in script.splitlines() if line.startswith("#SBATCH")]
    assert lines == [
        "#SBATCH -J dask-worker", "#SBATCH -p gpu", "#SBATCH -n 1", "#SBATCH --cpus-per-task=8", "#SBATCH --mem=30G",
        "#SBATCH -t 04:00:00", "#SBATCH --gres=gpu:1",
    ]  # fmt: skip
    assert "--nthreads 8" in script
    file.write_text("cluster: SlurmCluster\n")
    with pytest.raises(ValueError, match="did you mean 'SLURMCluster'"):
        job_script(file)


@pytest.fixture
def project(tmp_path):
    """The root of a project without chapters, where sweeps leave their runs."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    return tmp_path


def swept(project, what, **how):
    heard: list[str] = []
    sweep = Sweep(what, project, heard.append)
    whole = run_sweep(sweep, how.pop("where", Where(workers=2)), **how)
    return sweep, whole, heard


def tables(project, name):
    return {path.parent.name: path.read_bytes() for path in (project / "runs" / name).glob("*/labels.csv")}


def start(project, *words, **env):
    """A command in the project, with one thread, as the workers of two cores have."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | env
    return subprocess.Popen(words, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def written(project, name, **own):
    (project / f"{name}.yml").write_text(json.dumps({"name": name, "stages": ["multi-task"], "set": QUICK} | own))
    return [str(BIN / "fairnb"), "sweep", f"{name}.yml"]


@contextmanager
def cluster(project, *environments):
    """A scheduler and workers, each a process of its own; yields the scheduler's address and the workers."""
    port = str(20000 + os.getpid() % 20000)
    processes = [start(project, str(BIN / "dask"), "scheduler", "--port", port, "--no-dashboard", "--host", "127.0.0.1")]
    address = f"tcp://127.0.0.1:{port}"
    for number, environment in enumerate(environments):
        scratch = project / f"scratch-{number}"
        words = "worker", address, "--no-nanny", "--nthreads", "1", "--local-directory", str(scratch), "--no-dashboard"
        processes.append(start(project, str(BIN / "dask"), *words, **environment))
    try:
        yield address, processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


@pytest.mark.slow
def test_two_workers_give_what_one_run_after_the_other_gives(project, monkeypatch):
    what = make(grid={"seed": [0, 1], "tolerance": [0.01, 0.05, 0.1]})
    sweep, whole, heard = swept(project, what)
    assert whole
    assert len(list((project / "runs" / "trainings").iterdir())) == 2
    code = (
        "import json, sys; from fairnb.experiment import Experiment\n"
        "for given in json.loads(sys.argv[1]): Experiment.open(**given).search('multi-task')"
    )
    given = [one.parameters.model_dump(mode="json") for one in sweep.planned]
    alone = [own | {"run": own["run"].replace("s/", "alone-").replace("=", "-")} for own in given]
    shutil.rmtree(project / "runs" / "trainings")  # so that it trains anew
    process = start(project, sys.executable, "-c", code, json.dumps(alone))
    said = process.communicate()[0]
    assert process.returncode == 0, said
    found = {
        own["run"]: (project / "runs" / other["run"] / "labels.csv").read_bytes()
        for own, other in zip(given, alone, strict=True)
    }
    assert found == {f"s/{name}": text for name, text in tables(project, "s").items()}
    assert len(tables(project, "s")) == 6
    table = pd.read_csv(project / "runs" / "s" / "table.csv")
    assert len(table) == 6 * 2
    assert set(table.method) == {"base", "multi-task"}
    pd.testing.assert_frame_equal(table, pd.read_parquet(project / "runs" / "s" / "table.parquet"), check_dtype=False)
    stamps = {path: path.stat().st_mtime_ns for path in (project / "runs" / "s").glob("*/*")}
    again, whole, heard = swept(project, what)
    again.tell(Where())
    assert whole
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    assert heard == ["s: runs: 6, distinct trainings: 2 (0 there); done: 6, failed: 0, left: 0"]


@pytest.mark.slow
def test_a_run_that_fails_is_told_and_the_others_go_on(project):
    # too few people for labels of so many positives: the run fails where it is opened
    what = make(grid={"min_positives": [2, 100]}, set={k: v for k, v in QUICK.items() if k != "min_positives"})
    sweep, whole, _ = swept(project, what)
    assert not whole
    notes = {run: note["state"] for run, note in sweep.notes.items()}
    assert notes == {"s/min_positives=2": "done", "s/min_positives=100": "failed"}
    assert "no label" in sweep.notes["s/min_positives=100"]["message"]
    assert "Traceback" in (project / "runs" / "s" / "min_positives=100" / "log.txt").read_text()
    stamp = (project / "runs" / "s" / "min_positives=100" / "swept.json").stat().st_mtime_ns
    assert not swept(project, what)[1]  # still failed, and not tried again
    assert stamp == (project / "runs" / "s" / "min_positives=100" / "swept.json").stat().st_mtime_ns
    assert not swept(project, what, retry_failed=True)[1]
    assert stamp < (project / "runs" / "s" / "min_positives=100" / "swept.json").stat().st_mtime_ns
    process = start(project, *written(project, "s", grid=what.grid, set=what.set), "--status")
    said = process.communicate()[0]
    assert "done: 1, failed: 1, left: 0" in said
    assert "min_positives=100 failed: " in said


@pytest.mark.slow
def test_a_killed_worker_s_runs_are_done_by_another(project):
    long = SMALL | {"drawn": [1500, 120, 120], "particles": 50, "iterations": 1500}
    words = written(project, "long", set=long, grid={"tolerance": [0.01, 0.1]})
    with cluster(project, {}, {}) as (address, workers):
        sweep = start(project, *words, "--scheduler", address)
        trainings = project / "runs" / "trainings"
        wait_for(lambda: list(trainings.glob("*/.work.lock")))
        time.sleep(1)  # the training is under way
        busy = (project / "runs" / "trainings").glob("*/.work.lock")
        assert next(busy)
        holders = [w for w in workers if any(".work.lock" in os.readlink(fd) for fd in open_files(w.pid))]
        assert len(holders) == 1
        holders[0].send_signal(signal.SIGKILL)
        (other,) = (w for w in workers if w is not holders[0])
        with extra_worker(project, address):
            wait_for(lambda: list((project / "runs" / "long").glob("*/multi_task_search.safetensors")))
            other.send_signal(signal.SIGKILL)  # in the middle of a search, or of nothing: the new one does the rest
            said = sweep.communicate(timeout=240)[0]
    assert sweep.returncode == 0, said
    assert len(tables(project, "long")) == 2


def open_files(pid):
    for path in Path(f"/proc/{pid}/fd").iterdir():
        if path.is_symlink():
            yield path


@contextmanager
def extra_worker(project, address):
    words = "worker", address, "--no-nanny", "--nthreads", "1", "--local-directory", str(project / "scratch-x")
    process = start(project, str(BIN / "dask"), *words, "--no-dashboard")
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_was_stopped_goes_on(project, kind):
    words = written(project, "s", grid={"seed": [0, 1], "tolerance": [0.01, 0.1]})
    sweep = start(project, *words, "--workers", "1")
    wait_for(lambda: list((project / "runs" / "s").glob("*/swept.json")))
    sweep.send_signal(kind)
    said = sweep.communicate(timeout=60)[0]
    assert sweep.returncode == (-9 if kind == signal.SIGKILL else 130), said
    done = {path: path.stat().st_mtime_ns for path in (project / "runs" / "s").glob("*/swept.json")}
    assert len(done) < 4
    again = start(project, *words, "--workers", "1")
    said = again.communicate(timeout=240)[0]
    assert again.returncode == 0, said
    assert f"done: {len(done)}, failed: 0, left: {4 - len(done)}" in said
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in done.items())
    assert len(tables(project, "s")) == 4


@pytest.mark.slow
def test_workers_without_the_sweep_s_disk_send_their_results(project, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    words = written(project, "s", grid={"seed": [0, 1], "tolerance": [0.01, 0.1]})
    with cluster(project, {"FAIRNB_ROOT": str(elsewhere)}, {}) as (address, _):
        sweep = start(project, *words, "--scheduler", address)
        said = sweep.communicate(timeout=240)[0]
        assert sweep.returncode == 0, said
        assert list((elsewhere / "runs" / "s").glob("*/labels.csv"))
        more = start(project, *written(project, "more", grid={"seed": [0, 1], "noise": [0]}), "--scheduler", address)
        said = more.communicate(timeout=120)[0]
        assert more.returncode == 0, said  # the trainings are there, and are sent
    assert len(tables(project, "s")) == 4
    here, there = ({p.name for p in root.glob("runs/trainings/*")} for root in (project, elsewhere))
    assert len(here) == 2
    assert there <= here
    alone = start(project, *written(project, "alone", grid={"seed": [0, 1], "tolerance": [0.01, 0.1]}), "--workers", "2")
    assert alone.wait(timeout=240) == 0
    assert tables(project, "s") == tables(project, "alone")
    evidence = dict(Swept(project / "runs" / "s").evidence())
    publish(project / "results" / "mine", [project / "runs" / "s"], evidence)
    known = json.loads((project / "results" / "mine" / "provenance.json").read_text())
    assert known["seeds"] == 2
    assert len(pd.read_csv(project / "results" / "mine" / "methods.csv")) == 3


@pytest.mark.slow
def test_a_worker_with_a_full_disk_hands_its_runs_over(project, tmp_path_factory):
    small = tmp_path_factory.mktemp("small")
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)]).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        words = written(project, "s", grid={"seed": [0, 1]})
        with cluster(project, {"FAIRNB_ROOT": str(small)}, {}) as (address, workers):
            sweep = start(project, *words, "--scheduler", address)
            said = sweep.communicate(timeout=240)[0]
            assert sweep.returncode == 0, said
            wait_for(lambda: workers[0].poll() is not None, 60)  # it left
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)
    assert len(tables(project, "s")) == 2


@pytest.mark.slow
def test_two_sweeps_at_once_share_a_training(project):
    sweeps = [
        start(project, *written(project, name, grid={"tolerance": [0.01, 0.1]}), "--workers", "1") for name in ("a", "b")
    ]
    for sweep in sweeps:
        said = sweep.communicate(timeout=240)[0]
        assert sweep.returncode == 0, said
    assert len(list((project / "runs" / "trainings").iterdir())) == 1
    (log,) = (project / "runs" / "trainings").glob("*/log.txt")
    assert log.read_text().count("features of valid:   0%") == 1
    assert len(set(tables(project, "a").values()) | set(tables(project, "b").values())) == 2
