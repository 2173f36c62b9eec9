"""One experiment from data to tables; what is expensive lies in `runs/<run>/`, where the next notebook finds it.

    experiment = Experiment("demo", data="celeba", data_root="~/data/celeba", recipe=Recipe(epochs=10))
    base = experiment.base_model()                                    # trained once, then loaded
    search = experiment.multi_task(Swarm(), tolerance=0.05, spread=0.1)
    experiment.labels()                                               # method, split, label, analysed, accuracy, uei

Each stage is a call that computes its result or loads the file it left; nothing flows backwards.
"""

from __future__ import annotations

import io
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, fields
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from fairnb import tables
from fairnb.data import DRAWN, Faces, open_dataset
from fairnb.data.feeding import Feed, apply, check_feed
from fairnb.features import Features, extract_features, load_features, load_layer, save_features
from fairnb.methods import strategies
from fairnb.methods.baselines import BASELINES
from fairnb.methods.calibrated import calibrated_multi_task
from fairnb.methods.strategies import Search, load_search, save_search
from fairnb.model import MultiLabelNet
from fairnb.run.device import check_group, make_fabric, resolve
from fairnb.run.files import load_json, project_root, save_json, save_table, save_tensors
from fairnb.run.keys import content_key
from fairnb.run.messages import check_run_name, unknown
from fairnb.swarm.mopso import Swarm
from fairnb.tables import METHODS, file_name
from fairnb.training import FILES, BaseModel, Recipe, recipe_key, train_base

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PACKAGES = ("fairnb", "torch", "torchvision", "lightning-fabric", "numpy", "scikit-learn")


class Experiment:
    """A named run of the experiment on one dataset with one recipe.

    Attributes:
        folder: `runs/<run>`, which receives every result.
        faces: the dataset.
        recipe: what the base model is trained by.
        analysed: bool [L], the labels that are searched and averaged.
    """

    def __init__(
        self,
        run: str,
        *,
        data: str,
        recipe: Recipe,
        data_root: str | Path = "",
        drawn: Sequence[int] = DRAWN,
        drawn_seed: int = 0,
        sensitive: str = "Male",
        targets: Sequence[str] = (),
        max_images: int = 0,
        not_analysed: Sequence[str] = (),
        min_positives: int = 1,
        device: str = "auto",
        devices: int = 1,
        num_nodes: int = 1,
        feed: str = "auto",
        workers: int = -1,
        tensorboard: bool = False,
        runs: str | Path = "runs",
        fabric: Fabric | None = None,
    ) -> None:
        """Open a run, or begin it.

        Args:
            run: its name, a folder name.
            data: name of a dataset, see `fairnb.data.DATASETS`.
            recipe: what to train; its seed is the seed of the searches too.
            data_root: folder of a dataset that is read; relative to the project's root.
            drawn: how many drawn faces to train, validate and test on, where `data` is 'drawn'.
            drawn_seed: of the drawn faces: another seed gives other people.
            sensitive: attribute that splits people into groups.
            targets: attributes to predict; empty for all but the sensitive one.
            max_images: at most so many images of each split; 0 takes all.
            not_analysed: labels that are trained but neither searched nor averaged.
            min_positives: positives that each group needs in validation and in test for a label to be analysed.
            device: 'auto', 'cpu', 'cuda' or 'mps'.
            devices: how many of them the base model is trained on, on each machine.
            num_nodes: machines it is trained on.
            feed: 'cached', 'files' or 'auto', see `fairnb.data.feeding.Feed`.
            workers: processes that read images; -1 chooses.
            tensorboard: also write the training's course into `tensorboard/`.
            runs: folder of all runs; relative to the project's root.
            fabric: this process's place in a group that trains together, from `fairnb.run.device.join_group`; only the first
                of its processes writes. Without it, a training on more than one device is handed to such a group.

        Raises:
            ValueError: for bad values, see what is called, and where the run was made with other parameters.
            FileNotFoundError: where data is missing.
        """
        check_run_name(run)
        if min_positives < 1:
            raise ValueError(f"min_positives={min_positives} must be at least 1: without positives there is no score")
        check_group(devices, num_nodes)
        self._joined, self._precision = fabric, recipe.precision
        self.device = fabric.device.type if fabric else resolve(device)[0]
        self.root = project_root() / runs
        self.folder = self.root / run
        self.recipe = recipe
        place = project_root() / Path(data_root).expanduser() if str(data_root) else ""
        self.faces: Faces = open_dataset(data, place, sensitive, targets, max_images, drawn, drawn_seed)
        self.analysed = self.faces.analysed(not_analysed, min_positives)
        check_feed(feed, workers)
        self._feed: dict[str, Any] = {"form": feed, "workers": workers}
        self._data_root, self._base_key = str(data_root), content_key(recipe_key(self.faces, recipe, self.device))
        self._tensorboard, self._group = tensorboard, None if fabric else (devices, num_nodes)
        parameters = dict(
            data=data,
            sensitive=sensitive,
            targets=list(targets),
            max_images=max_images,
            not_analysed=list(not_analysed),
            min_positives=min_positives,
            **({"drawn": list(drawn), "drawn_seed": drawn_seed} if data == "drawn" else {}),
            **asdict(recipe),
        )
        self._command = parameters | {
            "run": run, "data_root": str(data_root), "device": device, "devices": devices, "num_nodes": num_nodes,
            "feed": feed, "workers": workers, "tensorboard": tensorboard,
        }  # fmt: skip
        with self._first_alone():
            known = self._with(**parameters)
            if self.leads:
                self.folder.mkdir(parents=True, exist_ok=True)
                save_json(self.folder / "run.json", known | {"data_root": self._data_root})  # the data may have moved

    @property
    def leads(self) -> bool:
        """Whether this process writes: alone, or the first of its group."""
        return self._joined is None or self._joined.is_global_zero

    def _first_alone(self) -> AbstractContextManager[None]:
        """Let the first process of the group go first; where there is no group, nobody waits."""
        return self._joined.rank_zero_first() if self._joined else nullcontext()

    @cached_property
    def fabric(self) -> Fabric:
        """What places the network and images, made where there are any to be placed: its import costs seconds."""
        return self._joined or make_fabric(self.device, self._precision)

    @cached_property
    def feed(self) -> Feed:
        """The images on their way to the device."""
        recipe = self.recipe
        return Feed(
            self.faces.images, recipe.resize, recipe.image_size, cache=self.root / "cache", fabric=self.fabric, **self._feed
        )

    # ------------------------------------------------------------------ stages

    def base_model(self) -> BaseModel:
        """Stage one: the network trained for accuracy; trained here, resumed, loaded, or taken from another run.

        Raises:
            RuntimeError: if the group of processes that trains on several devices failed; it has said why.
        """
        finished = self.folder / FILES[-1]
        with self._first_alone():
            if self.leads and not finished.exists():
                self._take_from_sibling()
            there = finished.exists()
        if not there and self._group not in (None, (1, 1)):
            self._train_in_group()
            there = True
        base = train_base(self.faces, self.recipe, self.folder, self.feed, tensorboard=self._tensorboard)
        if not there:
            self._note_peak_memory()
            how = {"processes": self.fabric.world_size, "feed": self.feed.form, "workers": self.feed.workers}
            seconds = self.provenance()["seconds"] | {"base model": round(base.seconds, 3)}
            self._note(training=how, seconds=seconds)
        return base

    def _train_in_group(self) -> None:
        """Start `fairnb train`, which starts a process for each device; this one, which may be a notebook's, cannot join.

        Raises:
            ValueError: if other machines are to take part, where only the user can start it.
            KeyboardInterrupt: if it was interrupted; it has saved.
        """
        assert self._group
        if self._group[1] > 1:
            raise ValueError(
                f"num_nodes={self._group[1]}: start `fairnb train` with these parameters on each machine (README, "
                "Many GPUs), then run this again"
            )
        with tempfile.TemporaryDirectory() as folder:
            save_json(Path(folder) / "parameters.yml", self._command)  # JSON is YAML
            command = [str(Path(sys.executable).with_name("fairnb")), "train", "--params", f"{folder}/parameters.yml"]
            status = subprocess.run(command, cwd=project_root()).returncode
        if status == 130:
            raise KeyboardInterrupt("the training was stopped and saved: run this again, and it goes on")
        if status:
            raise RuntimeError(
                f"the training on {self._group[0]} devices failed (status {status}); its message stands above"
            )

    def heads(self) -> Tensor:
        """The base model's last layer, float32 [L, D + 1]: where every search starts. The network itself is not built."""
        if not (self.folder / FILES[-1]).exists():
            self.base_model()
        return load_layer(self.folder / FILES[0])

    def features(self) -> dict[str, Features]:
        """Penultimate features of `valid` and `test`, and the base model's rows in the tables of results."""
        return self._features("features.safetensors", "penultimate")

    def _features(self, name: str, layer: str) -> dict[str, Features]:
        path = self.folder / name
        if path.exists():
            return load_features(path)
        base = self.base_model()
        with self.timed(name.removesuffix(".safetensors").replace("_", " ")):
            features = extract_features(self.faces, base.model, self.feed, layer=layer)
            if self.leads:
                if layer == "penultimate":
                    self._write_results("base", features, base.heads)
                save_features(path, features)  # the last thing written: with it the stage is finished
        return features

    def dynamic_weighting(
        self,
        swarm: Swarm,
        *,
        tolerance: float,
        spread: float,
        epsilon: float,
        layers: str = "last",
        steer: str = "float32",
        whiten: bool = False,
    ) -> Search:
        """Stage two with one weighted sum over all labels; see `fairnb.methods.strategies.dynamic_weighting`.

        Raises:
            ValueError: for a way to search that there is not; see `fairnb.methods.strategies.check_search`.
        """
        strategies.check_search(layers, steer, whiten)
        settings = {"tolerance": tolerance, "spread": spread, "epsilon": epsilon, "steer": steer, "whiten": whiten}
        return self._search("dynamic weighting", swarm, settings, layers)

    def multi_task(
        self, swarm: Swarm, *, tolerance: float, spread: float, steer: str = "float32", whiten: bool = False
    ) -> Search:
        """Stage two with one head and one search a label; see `fairnb.methods.strategies.multi_task`."""
        return self._search(
            "multi-task", swarm, {"tolerance": tolerance, "spread": spread, "steer": steer, "whiten": whiten}
        )

    def calibrated_multi_task(self, swarm: Swarm, *, tolerance: float) -> Search:
        """This project's variant of the multi-task fix; see `fairnb.methods.calibrated`."""
        settings = {"swarm": swarm, "tolerance": tolerance, "seed": self.recipe.seed}
        return self._find("calibrated multi-task", calibrated_multi_task, settings, asdict(swarm) | {"tolerance": tolerance})

    def baseline(self, method: str, *, tolerance: float, **settings: Any) -> Search:
        """What the searches are compared with, by name; see `fairnb.methods.baselines.BASELINES`.

        Raises:
            ValueError: for a name that is not there (nearest one).
        """
        if method not in BASELINES:
            raise ValueError(unknown("baseline", method, BASELINES))
        noted = {"tolerance": tolerance} | ({method: settings} if settings else {})
        own = {"tolerance": tolerance, "seed": self.recipe.seed}
        return self._find(method, BASELINES[method], settings | own, noted)

    def _search(self, method: str, swarm: Swarm, settings: dict[str, Any], layers: str = "") -> Search:
        noted = asdict(swarm) | settings | ({"layers": layers} if layers else {})
        if layers == "all":
            settings = settings | {"hidden": None}  # the base model's, once it is there
        find: Callable[..., Search] = strategies.dynamic_weighting if layers else strategies.multi_task
        saved = self.folder / f"{file_name(method)}_search.safetensors"  # where a search that was stopped goes on
        return self._find(method, find, settings | {"swarm": swarm, "seed": self.recipe.seed, "saved": saved}, noted)

    def _find(self, method: str, find: Callable[..., Search], settings: dict[str, Any], noted: dict[str, Any]) -> Search:
        """Load what a method found, or let it search on validation; what is noted must not change within a run."""
        parameters = self._with(**noted)["parameters"]  # refuses, before the work, what does not fit
        path = self.folder / f"{file_name(method)}.safetensors"
        if path.exists():
            return load_search(path)
        features, heads = self.features(), self.heads()
        if "hidden" in settings:
            hidden = load_layer(self.folder / FILES[0], "hidden")
            features, settings = self.pooled_features(), settings | {"hidden": hidden}
        with self.timed(method):
            # Apple's GPUs have no float64, which the objectives need
            valid = features["valid"].to("cpu" if self.device == "mps" else self.device)
            search = find(valid, heads, searched=self.analysed, **settings)
            self._write_results(method, features, search.heads, search.hidden)
            save_search(path, search)
            if "saved" in settings:
                settings["saved"].unlink(missing_ok=True)
        self._note(parameters=self.provenance()["parameters"] | parameters)
        return load_search(path)  # on the CPU, and the same as a later call returns

    def pooled_features(self) -> dict[str, Features]:
        """What the first of the two fully connected layers reads, for the search that moves both."""
        return self._features("pooled_features.safetensors", "pooled")

    # ------------------------------------------------------------------ tables

    def labels(self) -> pd.DataFrame:
        """`labels.csv`: method, split, label, analysed, accuracy, uei. One row a method, split and label."""
        return pd.read_csv(self.folder / "labels.csv")

    def groups(self) -> pd.DataFrame:
        """`groups.csv`: method, split, label, group, n, positives, predicted_positives, us (empty without positives)."""
        return pd.read_csv(self.folder / "groups.csv")

    def _write_results(
        self, method: str, features: dict[str, Features], heads: Tensor, hidden: Tensor | None = None
    ) -> None:
        made = {split: strategies.evaluate(part, heads, hidden) for split, part in features.items()}
        self._merge("labels.csv", tables.label_rows(method, made, self.faces.label_names, self.analysed))
        self._merge("groups.csv", tables.group_rows(method, made, self.faces.label_names, self.faces.group_names))

    def _merge(self, name: str, new: pd.DataFrame) -> None:
        """Put a method's rows in place of its former ones; methods stay in the order of `METHODS`."""
        path = self.folder / name
        new = _as_text(io.StringIO(new.to_csv(index=False)))
        if path.exists():
            old = _as_text(path)
            new = pd.concat([old[~old.method.isin(new.method)], new])
        save_table(path, new.sort_values("method", key=lambda m: m.map(METHODS.index), kind="stable"))

    def logits(self, model: MultiLabelNet, split: str) -> Tensor:
        """Let a whole network look at a split's images: float32 [N, L]. The searches need only `features`."""
        return apply(model.to(self.fabric.device).eval(), self.faces.rows(split), self.feed, title=f"logits of {split}")

    def save_model(self, model: MultiLabelNet, method: str) -> Path:
        """Write a network with searched heads as `<method>_model.safetensors`; returns its path."""
        path = self.folder / f"{file_name(method)}_model.safetensors"
        save_tensors(path, model.state_dict())
        return path

    # ------------------------------------------------------------------ provenance

    def provenance(self) -> dict[str, Any]:
        """`run.json`: parameters, versions, device, git revision, seconds and revision per stage, peak memory."""
        return load_json(self.folder / "run.json")

    def _with(self, **parameters: Any) -> dict[str, Any]:
        """`run.json` with these parameters added, not yet written.

        Raises:
            ValueError: if something in the folder was made with other values; its files stay as they are.
        """
        known = self.provenance() if any(self.folder.glob("*.safetensors")) else self._new_run()
        parameters = {name: list(value) if isinstance(value, tuple) else value for name, value in parameters.items()}
        old = known["parameters"]
        differ = [
            f"{name} was {old[name]!r}, now {value!r}" for name, value in parameters.items() if old.get(name, value) != value
        ]
        if not differ and known["base_key"] != self._base_key:
            source = repr(known["data_root"]) if known["data_root"] else "drawn"
            differ = [f"images or annotations are not the same (they were from {source})"]
        if differ:
            raise ValueError(
                f"{self.folder} was made with other parameters: {'; '.join(differ)}.\n"
                "Give this one another name (run = …), or delete that folder; its files are left as they are."
            )
        return known | {"parameters": old | parameters}

    def _note(self, **entries: Any) -> None:
        """Put entries into `run.json`."""
        if self.leads:
            save_json(self.folder / "run.json", self.provenance() | entries)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds that a stage took, its revision, and the most memory so far, to `run.json`."""
        start = time.perf_counter()
        yield
        self._note_peak_memory()
        known = self.provenance()
        self._note(
            seconds=known["seconds"] | {stage: round(time.perf_counter() - start, 3)},
            revisions=known.get("revisions", {}) | {stage: git_revision()},
        )

    def _note_peak_memory(self) -> None:
        known = self.provenance()
        gpu = torch.cuda.max_memory_allocated() / 1e9 if self.device == "cuda" else 0.0
        self._note(
            peak_memory_gb=round(max(known["peak_memory_gb"], _peak_memory_gb()), 3),
            peak_gpu_memory_gb=round(max(known["peak_gpu_memory_gb"], gpu), 3),
        )

    def _new_run(self) -> dict[str, Any]:
        return {
            "run": self.folder.name,
            "begun": datetime.now(UTC).isoformat(timespec="seconds"),
            "parameters": {},
            "data_root": self._data_root,
            "base_key": self._base_key,
            "device": {"type": self.device, "name": _device_name(self.device), "threads": torch.get_num_threads()},
            "git_revision": git_revision(),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "base_from": self.folder.name,
            "seconds": {},
            "revisions": {},
            "peak_memory_gb": 0.0,
            "peak_gpu_memory_gb": 0.0,
        }

    def _take_from_sibling(self) -> None:
        """Copy the base model of another run that was trained by the same recipe on the same images."""
        for path in sorted(self.root.glob("*/run.json")):
            try:
                other = load_json(path)
            except ValueError:
                continue  # a damaged run is no reason not to begin another
            if (path.parent / FILES[-1]).exists() and other.get("base_key") == self._base_key:
                for name in FILES:
                    beside = self.folder / f".{name}.part"
                    shutil.copyfile(path.parent / name, beside)
                    beside.replace(self.folder / name)
                self._note(base_from=other["base_from"])
                return


def open_experiment(parameters: Mapping[str, Any], fabric: Fabric | None = None, *, runs: str | Path = "runs") -> Experiment:
    """The run, in a folder of runs, that a chapter's parameters describe; those that belong to later stages are left out.

    Raises:
        ValueError: and FileNotFoundError, see `Experiment`.
    """
    recipe = Recipe(**{part.name: parameters[part.name] for part in fields(Recipe)})
    accepted = signature(Experiment.__init__).parameters.keys() & parameters.keys()
    return Experiment(recipe=recipe, fabric=fabric, runs=runs, **{name: parameters[name] for name in accepted})


def _as_text(table: Path | io.StringIO) -> pd.DataFrame:
    """A CSV table with every field as it is written: numbers that are only copied keep their last digit."""
    return pd.read_csv(table, dtype=str, keep_default_na=False)


def _peak_memory_gb() -> float:
    """The most memory that this process has held at once, in 10⁹ bytes."""
    import resource  # not on Windows, where make is not either
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()


def git_revision() -> str:
    """The commit that is checked out, with `+` where files differ from it; 'unknown' outside a repository."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=12",
        "--dirty=+",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
