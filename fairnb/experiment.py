"""One experiment from data to tables; expensive results lie in `runs/<run>/`, shared by all notebooks.

    experiment = Experiment.open("mine", data="celeba", data_root="data/celeba", epochs=10)
    base = experiment.base_model()                                    # trained once, then loaded
    search = experiment.search("multi-task")
    experiment.labels()                                               # method, split, label, analysed, accuracy, uei

Each stage is a call that computes its result or loads its file.
"""

from __future__ import annotations

import io
import platform
import re
import resource  # not on Windows, where make is not either
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from fairnb import tables
from fairnb.data import Faces, open_dataset
from fairnb.data.feeding import Feed
from fairnb.features import Features, extract_features, load_features, load_layer, save_features
from fairnb.heads import Heads
from fairnb.methods import BASE, METHODS, Problem, Search, load_search, method_named, save_search, unmet
from fairnb.methods.method import PICKED_BY
from fairnb.model import MultiLabelNet
from fairnb.run.device import make_fabric, resolve
from fairnb.run.files import (
    checksum,
    load_notes,
    project_root,
    refuse_other_base,
    save_json,
    save_table,
    save_tensors,
    share,
)
from fairnb.run.keys import content_key
from fairnb.run.lock import alone
from fairnb.run.messages import unknown
from fairnb.run.parameters import Conditions, Data, Machine, Parameters, Recipe
from fairnb.run.record import TABLES, Record, changed, git_revision, load_run
from fairnb.training import FILES, BaseModel, recipe_key, train_base

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PACKAGES = ("fairnb", "torch", "torchvision", "lightning-fabric", "numpy", "scikit-learn")
OF_TABLES = {"not_analysed", "min_positives"}  # parameters of everything but the base model
OF_BASE = (Data.names() | Recipe.names()) - OF_TABLES  # parameters of the base model
RESULTS = ("labels.csv", "groups.csv")  # tables of all methods
SHARED = (*FILES, "features.safetensors", "pooled_features.safetensors")  # files that runs of one base model have in common


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    return {name: version(name) for name in PACKAGES}


def training_of(parameters: Parameters) -> Parameters:
    """Those of the run that trains the base model for all runs of a sweep with such parameters: `trainings/<key>`."""
    given = parameters.model_dump(mode="json", include=OF_BASE)
    machine = parameters.model_dump(mode="json", include=Machine.names())
    return Parameters(**given, **machine, run=f"trainings/{content_key(given)}")


class Experiment:
    """A named run of the experiment on one dataset with one recipe."""

    def __init__(self, record: Record, fabric: Fabric | None = None) -> None:
        """See `open`; `fabric` is from `fairnb.run.device.join_group`. Of a group's processes only the first writes."""
        self.record, self._joined, self.folder = record, fabric, record.folder  # `runs/<run>`, which receives every result
        self.parameters: Any = record.parameters  # `fairnb.run.parameters.Parameters`
        given = self.parameters
        kind = fabric.device.type if fabric else given.device
        self.device, self.precision = resolve(kind, given.precision)  # neither is 'auto' any more
        self.faces: Faces = open_dataset(given.part(Data), project_root())
        self.analysed = self.faces.analysed(given.not_analysed, given.min_positives)  # bool [L], searched and averaged
        self.of_base = OF_BASE - (set() if given.data == "drawn" else {"drawn", "drawn_seed"})  # parameters it depends on
        key = content_key(recipe_key(self.faces, given.part(Recipe), self.device))
        with self._first_alone():
            if record.stages and record.known["base_key"] != key:
                record.refuse([self._what_differs()])
            record.refuse(self._newer())
            if self.leads:  # the data may have moved
                self._tell_versions()
                record.save(**({} if record.stages else self._surroundings()), base_key=key, data_root=given.data_root)

    @classmethod
    def open(cls, run: str = "demo", *, runs: str | Path = "runs", fabric: Fabric | None = None, **given: Any) -> Experiment:
        """Begin a run, or continue it with its own parameters where `given` names no others, see `Record.open`.

        `fabric` as in `Experiment`. Damaged or different data raise ValueError; missing data raises FileNotFoundError.
        """
        return cls(Record.open(run, runs=runs, **given), fabric)

    @property
    def leads(self) -> bool:
        """Whether this process writes: alone, or the first of its group."""
        return self._joined is None or self._joined.is_global_zero

    @cached_property
    def fabric(self) -> Fabric:
        """Places the network and the images; made on first use, since its import takes seconds."""
        return self._joined or make_fabric(self.device, self.parameters.precision)

    @cached_property
    def feed(self) -> Feed:
        """Supplies the images to the device."""
        given, images = self.parameters, self.faces.images
        how = {"cache": self.record.runs / "cache", "fabric": self.fabric, "form": given.feed, "workers": given.workers}
        return Feed(images, given.resize, given.image_size, **how)

    @property
    def names(self) -> list[str]:
        """Names of the analysed labels."""
        return [name for name, kept in zip(self.faces.label_names, self.analysed.tolist(), strict=True) if kept]

    def base_model(self) -> BaseModel:
        """Stage one: the base model, trained (RuntimeError if several devices fail), resumed, loaded or copied."""
        given = self.parameters
        with self._first_alone():
            if self.leads and not self._is_trained():
                self._take_from_sibling()
            there = self._is_trained()
            if self.leads and not there and self.record.changed(*FILES[1:]):  # deleted: the next ones have other seconds
                self.record.save(tables=self.record.digests(*RESULTS))
        if not there and self._joined is None and (given.devices, given.num_nodes) != (1, 1):
            self._train_in_group()
        base = train_base(self.faces, given.part(Recipe), self.folder, self.feed, tensorboard=given.tensorboard)
        if self.leads and not (there and "base model" in self.record.stages):
            how = {"processes": self.fabric.world_size, "feed": self.feed.form, "workers": self.feed.workers}
            self.record.note("base model", self.of_base, base.seconds)
            self.record.save(training=how, **self._peak_memory())
        return base

    def heads(self, layer: str = "head") -> Tensor:
        """The base model's last layer, float32 [L, D + 1], or its 'hidden' one, read without building the network."""
        if not self._is_trained():
            self.base_model()
        return load_layer(self.folder / FILES[0], layer)

    def _is_trained(self) -> bool:
        """Whether the base model's files are there; ValueError if its histories are not as they were written."""
        if damaged := [path for path in self.record.changed(*FILES[1:]) if path.exists()]:
            raise ValueError(f"{damaged[0]} is not as run.json noted it: delete it, and the base model is trained anew")
        return all((self.folder / name).exists() for name in FILES)

    def features(self) -> dict[str, Features]:
        """Penultimate features of `valid` and `test`; the first call also writes the base model's results."""
        return self._features("features.safetensors", "penultimate")

    def pooled_features(self) -> dict[str, Features]:
        """Pooled features, the input of the first fully connected layer, for a search that moves both."""
        return self._features("pooled_features.safetensors", "pooled")

    def _features(self, name: str, layer: str) -> dict[str, Features]:
        path, stage = self.folder / name, name.removesuffix(".safetensors").replace("_", " ")
        heads = self.heads()  # trains, or takes what another run has
        refuse_other_base(path, base := self.folder / FILES[0])
        if stage not in self.record.stages or not path.exists():
            with self._stage(stage, self.of_base | OF_TABLES):
                if path.exists():
                    features = load_features(path)
                else:
                    features = extract_features(self.faces, self.base_model().model, self.feed, layer=layer)
                if self.leads:
                    if not path.exists():
                        save_features(path, features, base=checksum(base))
                    if layer == "penultimate":
                        alone = Heads(heads.unsqueeze(0))
                        self._write_results("base", {split: alone.tables(part) for split, part in features.items()})
            return features
        return load_features(path)

    def another_attribute(self) -> str:
        """A label to split the groups by: Young, or else the one that splits all people most evenly; ValueError if none."""
        names, shares = self.faces.label_names, self.faces.labels.double().mean(0)
        even = [names[i] for i in (shares - 0.5).abs().argsort(stable=True).tolist()]
        plain = [name for name in even if not re.search("[=>]", name)]  # others were made of words or numbers
        if not plain:
            raise ValueError("no label is an attribute by itself: say crossed=…, another column that makes groups")
        return "Young" if "Young" in plain else plain[0]

    def regrouped(self, *sensitive: str) -> tuple[Faces, dict[str, Features], Tensor]:
        """This run's dataset and features with groups by other attributes, and the labels to judge there, bool [L].

        A label is judged if it is analysed here, is none of these attributes, and has enough positives in each group.
        ValueError, as of `open_dataset`, or if images are left out, such as those of small groups.
        """
        given = self.parameters
        targets = [name for name in given.targets if name not in sensitive]
        faces = open_dataset(given.part(Data).but(sensitive=sensitive, targets=targets), project_root())
        if faces.images.names != self.faces.images.names:
            raise ValueError(f"by {faces.sensitive} the images are others than this run's: {'; '.join(faces.told)}")
        enough = faces.analysed([name for name in given.not_analysed if name not in sensitive], given.min_positives)
        judged = {name for name, kept in zip(faces.label_names, enough.tolist(), strict=True) if kept}
        size, own = len(faces.group_names), self.features()
        features = {split: replace(part, group=faces.group[faces.rows(split)], groups=size) for split, part in own.items()}
        return faces, features, self.analysed & torch.tensor([name in judged for name in self.faces.label_names])

    def problem(self, *, both_layers: bool = False, device: str = "cpu", saved: Path | None = None) -> Problem:
        """The problem that methods solve: this run's validation features, heads and labels."""
        given, features = self.parameters, self.features()  # always, for the base model's results
        valid = (self.pooled_features() if both_layers else features)["valid"].to(device)
        hidden = self.heads("hidden") if both_layers else None
        how: Any = {"tolerance": given.tolerance, "held_out": given.held_out, "conditions": given.part(Conditions)}
        return Problem(valid, self.heads(), self.analysed, seed=given.seed_of_search, hidden=hidden, saved=saved, **how)

    def search(self, method: str) -> Search:
        """Stage two: the result of a method of `METHODS`, searched or loaded; an unknown one raises ValueError.

        Says for which labels nothing meets the side conditions of the pick, so that the base model stays.
        """
        return self._told(method, self._search(method))

    def _search(self, method: str) -> Search:
        one = method_named(method)
        if one.find is None:
            raise ValueError(f"{method!r} is the model before any search: see base_model() and heads()")
        path = self.folder / f"{one.file}.safetensors"
        refuse_other_base(path, base := self.folder / FILES[0])
        if not path.exists() or method not in self.record.stages:
            both, saved = one.both_layers(self.parameters), self.folder / f"{one.file}_search.safetensors"
            device = "cpu" if self.device == "mps" else self.device  # objectives need float64, which Apple's GPUs lack
            takes = one.depends_on | {"seed"} | OF_TABLES
            problem = self.problem(both_layers=both, device=device, saved=saved)
            made_of = content_key(self.parameters.model_dump(mode="json", include=takes))
            with self._stage(method, takes):
                if not path.exists() or load_notes(path).get("made_of") != made_of:  # or its rows alone are missing
                    save_search(path, one.search(problem, self.parameters), made_of=made_of, base=checksum(base))
                self._write_results(method, self.counts(load_search(path).heads))
                saved.unlink(missing_ok=True)
        return load_search(path)  # on the CPU, as for later calls

    def pick_again(self, method: str, **other: Any) -> Search:
        """A method's search with another pick from its fronts; nothing is saved, or searched again.

        `other` holds values of tolerance, indifference and side conditions where they differ from the run's; another
        parameter raises ValueError.
        """
        if strange := sorted(other.keys() - PICKED_BY):
            raise ValueError(unknown("parameter of a pick", strange[0], PICKED_BY))
        given, search = self.parameters.but(**other), self._search(method)
        one, words = method_named(method), ", ".join(f"{name}={value}" for name, value in other.items())
        again = one.pick_again(self.problem(both_layers=one.both_layers(given)), given, search.fronts)
        return self._told(f"{method} ({words})" if words else method, again)

    def counts(self, heads: Heads) -> dict[str, Tensor]:
        """Contingency tables of heads by split, int64 [L, G, 2, 2]."""
        return {split: heads.tables(part) for split, part in self.features_for(heads).items()}

    def heads_of(self, method: str) -> Heads:
        """The base model's heads, or those that a method picked."""
        return Heads(self.heads().unsqueeze(0)) if method == BASE.name else self.search(method).heads

    def features_for(self, heads: Heads) -> dict[str, Features]:
        """The features that heads read: penultimate ones, or pooled ones where the layer before them moved too."""
        return self.features() if heads.hidden is None else self.pooled_features()

    def labels(self) -> pd.DataFrame:
        """`labels.csv`: method, split, label, analysed, accuracy, uei. One row per method, split and label."""
        self._mend_tables()
        return tables.read(self.folder / "labels.csv")

    def groups(self) -> pd.DataFrame:
        """`groups.csv`: method, split, label, group, n, positives, predicted_positives, us (empty without positives)."""
        self._mend_tables()
        return tables.read(self.folder / "groups.csv")

    def _mend_tables(self) -> None:
        """Make both tables anew from the saved models if one is not as the last stage left it."""
        if self.leads and self.record.changed(*RESULTS):
            with alone(self.folder):
                self._make_tables()

    def _make_tables(self) -> None:
        for name in RESULTS:
            (self.folder / name).unlink(missing_ok=True)
        self._merge_results(BASE.name, self.counts(self.heads_of(BASE.name)))
        for name in load_run(self.folder)["stages"].keys() & METHODS.keys():
            if (path := self.folder / f"{METHODS[name].file}.safetensors").exists():
                self._merge_results(name, self.counts(load_search(path).heads))
        self.record.save(tables=self.record.digests(*TABLES))

    def _write_results(self, method: str, counts: dict[str, Tensor]) -> None:
        if self.record.changed(*RESULTS):
            self._make_tables()
        self._merge_results(method, counts)

    def _merge_results(self, method: str, counts: dict[str, Tensor]) -> None:
        labels = self.faces.label_names
        self._merge("labels.csv", tables.label_rows(method, counts, labels, self.analysed))
        self._merge("groups.csv", tables.group_rows(method, counts, labels, self.faces.group_names))

    def _merge(self, name: str, new: pd.DataFrame) -> None:
        """Replace a method's rows in a table; methods keep the order of `METHODS`, and copied numbers their last digit."""
        path, order = self.folder / name, list(METHODS)
        new = pd.read_csv(io.StringIO(new.to_csv(index=False)), dtype=str, keep_default_na=False)
        if path.exists():
            old = pd.read_csv(path, dtype=str, keep_default_na=False)
            new = pd.concat([old[~old.method.isin(new.method)], new])
        save_table(path, new.sort_values("method", key=lambda m: m.map(order.index), kind="stable"))

    def predictions(self, method: str = "base", split: str = "test") -> Path:
        """Write `<method>_predictions.csv`, as `fairnb assess` reads it; returns its path.

        Its columns are image, person if known, the sensitive attribute with each image's group, every label with 0 or 1, and
        `<label>_score`, a logit: above 0 predicts the label.
        """
        faces, rows = self.faces, self.faces.rows(split)
        heads = self.heads_of(method)
        part = self.features_for(heads)[split]
        names = list(map(faces.images.names.__getitem__, rows.tolist()))
        table = pd.DataFrame({"image": names} | ({} if part.person is None else {"person": part.person.numpy()}))
        table[faces.sensitive] = [faces.group_names[code] for code in part.group.tolist()]
        truth = pd.DataFrame(part.labels.int().numpy(), columns=list(faces.label_names))
        scores = pd.DataFrame(heads.logits(part).T.numpy(), columns=[f"{name}_score" for name in faces.label_names])
        save_table(
            path := self.folder / f"{method_named(method).file}_predictions.csv", pd.concat([table, truth, scores], axis=1)
        )
        return path

    def logits(self, model: MultiLabelNet, split: str) -> Tensor:
        """Logits float32 [N, L] of a whole network on a split's images; the searches need only `features`."""
        return self.feed.apply(model.to(self.fabric.device).eval(), self.faces.rows(split), title=f"logits of {split}")

    def save_model(self, model: MultiLabelNet, method: str) -> Path:
        """Write a network with searched heads as `<method>_model.safetensors`; returns its path."""
        save_tensors(path := self.folder / f"{method_named(method).file}_model.safetensors", model.state_dict())
        return path

    def seconds(self, stage: str) -> float:
        """Duration of a stage: 'base model', 'features', or a method."""
        return self.record.stages[stage]["seconds"]

    def _stage(self, name: str, takes: frozenset[str] | set[str]) -> AbstractContextManager[None]:
        """Note a stage that ends without error; in a group, only the first process does."""
        return self.record.timed(name, takes, self._peak_memory) if self.leads else nullcontext()

    def _told(self, method: str, search: Search) -> Search:
        """The search, after saying where the base model stays because nothing meets the side conditions."""
        if self.leads and (words := unmet(search, self.names)):
            print(f"{method}: {words}")
        return search

    def _newer(self) -> list[str]:
        """Parameters that are newer than a finished search, which took their defaults, and have another value now."""
        own, usual = (given.model_dump(mode="json") for given in (self.parameters, Parameters()))
        made = {METHODS[name]: stage["takes"] for name, stage in self.record.stages.items() if name in METHODS}
        newer = {name for method, takes in made.items() for name in method.depends_on.difference(takes)}
        return [f"{name} was {usual[name]!r}, now {own[name]!r}" for name in sorted(newer) if own[name] != usual[name]]

    def _what_differs(self) -> str:
        """Why the base model of this run cannot be that of its parameters here."""
        known, here = self.record.known, (self.device, self.precision)
        made = (known["device"]["type"], known["device"].get("precision", self.precision))
        if made != here:
            return f"it was trained on {made[0]} in {made[1]}, and this would be {here[0]} in {here[1]}"
        source = repr(known["data_root"]) if known["data_root"] else "drawn"
        return f"images or annotations are not the same (they were from {source})"

    def _tell_versions(self) -> None:
        """Say where a run that is continued was begun with other versions."""
        begun, here = self.record.known.get("versions", {}), versions()
        differ = [
            f"{name} {begun[name]} (now {here[name]})" for name in PACKAGES if begun.get(name, here[name]) != here[name]
        ]
        if differ and self.record.stages:
            print(f"{self.folder.name} was begun with {', '.join(differ)}: what is added may not compare with what is there")

    def _first_alone(self) -> AbstractContextManager[None]:
        """Let the first process of a group, if any, go first."""
        return self._joined.rank_zero_first() if self._joined else nullcontext()

    def _train_in_group(self) -> None:
        """Start `fairnb train`, which starts one process per device; this process, perhaps a notebook's, cannot join."""
        given = self.parameters
        if given.num_nodes > 1:
            raise ValueError(
                f"num_nodes={given.num_nodes}: start `fairnb train` with these parameters on each machine (see the book's "
                "page on training at size), then run this again"
            )
        with tempfile.TemporaryDirectory() as folder:
            save_json(Path(folder) / "parameters.yml", given.model_dump(mode="json"))  # JSON is YAML
            command = [str(Path(sys.executable).with_name("fairnb")), "train", "--params", f"{folder}/parameters.yml"]
            status = subprocess.run(command, cwd=project_root()).returncode
        if status == 130:
            raise KeyboardInterrupt("the training was stopped and saved: run this again to resume")
        if status:
            raise RuntimeError(f"the training on {given.devices} devices failed (status {status}); its message stands above")

    def _take_from_sibling(self) -> None:
        """Share the base model, and its features, of another run with the same recipe and images."""
        runs = self.record.runs
        siblings = (runs / training_of(self.parameters).run / "run.json", *sorted(runs.glob("*/run.json")))
        for path in (*siblings, *sorted(runs.glob("trainings/*/run.json"))):
            try:
                other = load_run(path.parent)
                made = other.get("base_key"), other.get("versions", {}).get("fairnb")
                if made != (self.record.known["base_key"], version("fairnb")) or changed(path.parent, other, *FILES[1:]):
                    continue
                whole = [name for name in SHARED if name not in FILES and (path.parent / name).exists()]
                for name in (FILES[0], *whole):
                    load_notes(path.parent / name)
            except (ValueError, FileNotFoundError):
                continue  # skip a damaged run
            if all((path.parent / name).exists() for name in FILES):
                for name in (*FILES, *whole):
                    share(path.parent / name, self.folder / name)
                self.record.note("base model", self.of_base, None)
                self.record.save(base_from=other["base_from"])
                return

    def _surroundings(self) -> dict[str, Any]:
        name = torch.cuda.get_device_name() if self.device == "cuda" else platform.processor() or platform.machine()
        device = {"type": self.device, "name": name, "precision": self.precision, "threads": torch.get_num_threads()}
        made_with = {"python": platform.python_version(), **versions()}
        return {"device": device, "git_revision": git_revision(), "versions": made_with, "base_from": self.parameters.run}

    def _peak_memory(self) -> dict[str, float]:
        """Peak memory of this process, and of its GPU, in 10⁹ bytes."""
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
        gpu = torch.cuda.max_memory_allocated() / 1e9 if self.device == "cuda" else 0.0
        held = {"peak_memory_gb": own, "peak_gpu_memory_gb": gpu}
        return {name: round(max(value, self.record.known.get(name, 0.0)), 3) for name, value in held.items()}
