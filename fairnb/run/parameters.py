"""Every parameter of a run, declared once: type, default, bounds, and one line of description.

    parameters = Parameters(data="celeba", data_root="data/celeba", epochs=10)
    parameters.part(Recipe)                     # those of the training
    Parameters(epochs=0)                        # ValueError: epochs=0 must be at least 1

From these declarations come the checks and their messages, `fairnb run --parameters`, `params/schema.json` and the book's
page of parameters. The defaults are those of the embedded demo; a file in `params/` holds the differences. A value from
YAML, the command line, papermill or a notebook is read as its parameter's type or refused.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Self, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fairnb.run.messages import unknown

T = TypeVar("T", bound="Part")
# The requirement on a value by pydantic's type of error; the braces are filled from its context.
MUST_BE = {
    "greater_than_equal": "at least {ge}", "greater_than": "above {gt}", "less_than_equal": "at most {le}",
    "less_than": "below {lt}", "int_parsing": "a whole number", "int_from_float": "a whole number",
    "int_type": "a whole number", "int_parsing_size": "a whole number of fewer digits", "float_parsing": "a number",
    "float_type": "a number", "finite_number": "a finite number", "bool_parsing": "true or false",
    "bool_type": "true or false", "string_type": "a word", "tuple_type": "a list, such as [a, b]",
    "list_type": "a list, such as [a, b]", "dict_type": "names with values, such as {{a: b}}",
    "too_short": "a longer list", "too_long": "a shorter list", "missing": "a longer list",
}  # fmt: skip

LONGEST = 200  # characters of a value in a message


def _field(default: Any, description: str, **bounds: Any) -> Any:
    return Field(default, description=description, **bounds)


class _Texts(yaml.BaseLoader):
    """Keeps 010, 1e-4 and null as text, for a parameter's type to read, and refuses a name that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"line {key.start_mark.line + 1}: a name must be a word")
            if key.value in seen:
                raise ValueError(f"line {key.start_mark.line + 1}: {key.value!r} stands twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _as_yaml(text: str) -> Any:
    """Lists and names with values, of texts; the text itself where it is not YAML. ValueError if a name stands twice."""
    try:
        return yaml.load(text, _Texts)
    except (yaml.YAMLError, RecursionError):
        return text


class Part(BaseModel):
    """Parameters that belong together; frozen. An unknown name or invalid value raises ValueError in one line."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ValueError("; ".join(dict.fromkeys(_words(one, type(self)) for one in error.errors()))) from None

    @field_validator("*", mode="before")
    @classmethod
    def _as_its_type(cls, value: Any, field: Any) -> Any:
        """Read text as a list, and None or a path as text, where the type asks for it; refuse a truth value as a number."""
        wanted = cls.model_fields[field.field_name].annotation
        if get_origin(wanted) in (tuple, dict) and isinstance(value, str):
            return _as_yaml(value) or ([] if get_origin(wanted) is tuple else {})
        if wanted is str and (value is None or isinstance(value, Path)):
            return str(value or "")
        if isinstance(value, bool) and wanted in (int, float):
            raise ValueError  # `_words` adds the message
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _as_stored(cls, value: Any, field: Any) -> Any:
        """Refuse a whole number that tensors cannot hold."""
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError(f"{field.field_name}={value} must be a whole number of fewer digits")
        return value

    def but(self, **changes: Any) -> Self:
        """A copy with some values changed."""
        return type(self)(**(dict(self) | changes))

    @classmethod
    def names(cls) -> set[str]:
        """Names of the parameters."""
        return set(cls.model_fields)


class Data(Part):
    """Images, labels, and the groups that are compared."""

    data: Literal["drawn", "celeba", "celebamask_hq", "fairface", "utkface", "lfw", "table"] = _field(
        "drawn", '"drawn" draws faces; "table" reads a table of your own, others the layout of that dataset'
    )
    data_root: str = _field("", "folder of the dataset, relative to the project's root")
    table: str = _field("", 'for table: its file in data_root; "" takes the one that lies there')
    image: str = _field("", 'for table: column of image files, or of their bytes; "" finds file, image, image_id, path')
    split: str = _field("", 'for table: column of splits; "" finds split, partition, or deals people by their names')
    person: str = _field("", 'for table: column of the person shown; "" finds person, identity, celeb_id')
    drawn: tuple[int, int, int] = _field((6000, 2000, 3000), "for drawn: faces to train, validate and test on")
    drawn_seed: int = _field(0, "for drawn: another seed draws other people", ge=0, lt=2**63)
    sensitive: str | tuple[str, ...] = _field("Male", "the attribute that splits people into groups, or several")
    bins: dict[str, tuple[float, ...]] = _field({}, "where groups of numbers begin, such as {age: [0, 30, 60]}")
    merge: dict[str, tuple[str, ...]] = _field({}, "groups to join: the new name, and the old ones")
    min_images: int = _field(0, "images of a group in each split; groups with fewer are left out", ge=0)
    missing: Literal["error", "drop", "negative"] = _field(
        "error", 'of values: "drop" leaves such images out, "negative" counts labels as absent'
    )
    targets: tuple[str, ...] = _field((), "attributes to predict, numbers as Bald>0.5; [] takes all but the sensitive ones")
    max_images: int = _field(0, "most images of each split; 0 takes all", ge=0)
    not_analysed: tuple[str, ...] = _field((), "labels that are trained but neither searched nor averaged")
    min_positives: int = _field(8, "positives per group in validation and test for a label to be analysed", ge=1)

    @property
    def attributes(self) -> tuple[str, ...]:
        """The sensitive attributes."""
        return (self.sensitive,) if isinstance(self.sensitive, str) else self.sensitive

    @field_validator("sensitive", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        """Read text as a list where it is one; a list of one is that one."""
        if isinstance(value, str) and value.startswith("["):
            value = _as_yaml(value)
        return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value

    @model_validator(mode="after")
    def _groups(self) -> Self:
        if not all(self.attributes) or len(set(self.attributes)) < len(self.attributes) or not self.attributes:
            raise ValueError(f"sensitive={list(self.attributes)} must name each attribute once")
        for name, edges in self.bins.items():
            if len(edges) < 2 or sorted(set(edges)) != list(edges):
                raise ValueError(f"bins: {name}={list(edges)} must be two numbers or more, each above the one before")
        old = [word for words in self.merge.values() for word in words]
        if twice := [word for word in old if old.count(word) > 1]:
            raise ValueError(f"merge: {twice[0]!r} is joined twice")
        return self

    @model_validator(mode="after")
    def _source(self) -> Self:
        if min(self.drawn) < 1:
            raise ValueError(f"drawn={list(self.drawn)} must be three numbers of faces, each at least 1")
        if self.data == "drawn" and self.data_root:
            raise ValueError(f"data_root={self.data_root!r} is given, but data='drawn' reads no folder: say data=celeba")
        if self.data != "drawn" and not self.data_root:
            raise ValueError(f"data={self.data!r} needs data_root, the dataset's folder (make book DATA=<folder>)")
        return self


class Recipe(Part):
    """All that determines the base model, beside the data."""

    backbone: str = _field("resnet18", "a torchvision classification model")
    weights: str = _field("", 'torchvision weights by name, such as "IMAGENET1K_V1"; "" trains from scratch')
    hidden: int = _field(256, "width of the first of the two fully connected layers", ge=1)
    dropout: float = _field(0.0, "probability of dropout between the two", ge=0, lt=1)
    resize: int = _field(58, "pixels of an image's shorter side after scaling", ge=8)
    image_size: int = _field(56, "pixels of the square that the network sees", ge=1)
    epochs: int = _field(3, "passes over the training split", ge=1)
    batch_size: int = _field(32, "images per step, of all processes together; batch norm needs two", ge=2)
    learning_rate: float = _field(1e-3, "of Adam; the highest one where it changes", gt=0)
    schedule: Literal["constant", "one-cycle"] = _field(
        "one-cycle", 'of the learning rate; "one-cycle" lets it rise and fall once'
    )
    weight_decay: float = _field(0.0, "of Adam", ge=0)
    precision: Literal["auto", "bf16-mixed", "32-true"] = _field(
        "auto", '"auto" takes bf16-mixed where the machine computes in it, else 32-true'
    )
    compiled: bool = _field(False, "torch.compile: minutes at the start, then fewer, larger pieces of work for a GPU")
    mitigation: Literal["", "reweighing", "domain-independent"] = _field(
        "", 'of the training, to compare with: "reweighing" or "domain-independent"; "" trains for accuracy alone'
    )
    seed: int = _field(0, "of the training and of the searches", ge=0, lt=2**63)

    @model_validator(mode="after")
    def _crop(self) -> Self:
        if self.image_size > self.resize:
            raise ValueError(f"image_size={self.image_size} is cut out of resize={self.resize}: it cannot be larger")
        return self


class Swarm(Part):
    """How the swarms fly. Where the paper gives no value, the default is ours: see the appendix "Reading the paper"."""

    particles: int = _field(50, "particles of each swarm (P)", ge=1)
    iterations: int = _field(60, "steps of each swarm", ge=0)
    repository: int = _field(100, "most solutions that a swarm remembers (A)", ge=1)
    flight: Literal["paper", "constricted"] = _field(
        "paper", 'how the swarms fly; "constricted" is this project\'s other flight'
    )
    turbulence: float = _field(0.5, "constricted flight: share of the particles moved to a leader's place", ge=0, le=1)
    divisions: int = _field(10, "of each objective's range, in the adaptive grid", ge=1)
    inertia: tuple[float, float] = _field((0.1, 0.7), "bounds of w")
    cognitive: tuple[float, float] = _field((0.5, 2.0), "bounds of c1")
    social: tuple[float, float] = _field((0.5, 2.0), "bounds of c2")
    crowding: float = _field(0.1, "a grid cell with more than this share of the swarm is densely populated", ge=0)
    noise: float = _field(0.1, "size of the perturbation of crowded particles; 0 turns it off", ge=0)
    accept_worse: float = _field(
        0.5, "probability that a perturbed particle keeps a worse position as its personal best", ge=0, le=1
    )

    @property
    def evaluations(self) -> int:
        """Positions scored per swarm, the start included."""
        return self.particles * (self.iterations + 1)

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.flight == "constricted" and self.repository < 2:
            raise ValueError(f"repository={self.repository} must be at least 2 for the constricted flight")
        for name in ("inertia", "cognitive", "social"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name}=({low}, {high}) must be a lower and an upper bound")
        return self


class Pick(Part):
    """Where every search begins, and how a model is picked from its front."""

    start: Literal["", "base", "recalibrated"] = _field(
        "", 'heads at which searches begin; "" leaves each its own, "recalibrated" for the calibrated search, else "base"'
    )
    search_seed: int = _field(-1, "of the searches where it is not that of the training; -1 takes seed", ge=-1, lt=2**63)
    tolerance: float = _field(0.05, "accuracy that may be lost for a lower UEI", ge=0)
    held_out: float = _field(0.0, "share of validation for the pick alone; 0 shows all of it to search and pick", ge=0, lt=1)
    indifference: float = _field(
        -1.0, "share of chance's UEI below which accuracy decides; -1: 0.5 in the calibrated search, else 0", ge=-1
    )


class Conditions(Part):
    """What a pick must meet beside the tolerance, on the images of the pick; where no model does, the base model stays."""

    no_label_worse: bool = _field(False, "pick no model that raises the UEI of a label above the base model's")
    max_fpr_gap: float = _field(
        1.0, "largest gap of false positive rates between groups that a pick may have; 1 allows any", gt=0, le=1
    )
    min_recall: float = _field(0.0, "lowest true positive rate of a group that a pick may have; 0 allows any", ge=0, lt=1)


class Settings(Part):
    """How heads are searched."""

    spread: float = _field(0.1, "distance of the first particles from the base model", ge=0)
    epsilon: float = _field(0.01, "ε of equation 8, dynamic weighting only", gt=0)
    layers: Literal["last", "all"] = _field("last", 'layers that dynamic weighting moves; "all" moves both')
    steer: Literal["float32", "bfloat16"] = _field(
        "float32", 'arithmetic of the search; "bfloat16" is faster where the machine has it'
    )
    box: float = _field(
        0.0, "half-width of the box in which the peers of other libraries search, in units of noise; 0 takes their own", ge=0
    )
    gradient_steps: int = _field(300, "steps of Adam, soft UEI only", ge=1)
    whiten: bool = _field(False, "search heads in whitened coordinates, which the paper does not")

    @model_validator(mode="after")
    def _whitened(self) -> Self:
        if self.layers == "all" and self.whiten:
            raise ValueError("whiten=True is for heads alone: with layers='all', leave it out")
        return self


class Machine(Part):
    """Where and how the work is done; results depend on it only by rounding."""

    device: Literal["auto", "cpu", "cuda", "mps"] = _field("auto", '"auto" takes the best there is')
    devices: int = _field(1, "devices per machine that train together", ge=1)
    num_nodes: int = _field(1, "machines that train together", ge=1)
    feed: Literal["auto", "cached", "files"] = _field(
        "auto", '"cached" decodes images once, to disk; "files" reads them in each epoch; "auto" as memory allows'
    )
    workers: int = _field(-1, "processes that read images; -1 chooses", ge=-1)
    tensorboard: bool = _field(False, "also write logs of the training for TensorBoard")


class Pages(Part):
    """For the examples of single chapters."""

    ablations: str = _field("", "a sweep of ablations to show beside the saved ones, by name")
    people: int = _field(20000, "drawn people that are compared with CelebA's statistics", ge=1)
    height: int = _field(109, "pixels of the portraits on the page of drawn faces", ge=32)
    width: int = _field(89, "CelebA's own are 218 by 178", ge=32)
    swarm_size: int = _field(100, "particles of the swarms that are taken apart", ge=1)
    swarm_steps: int = _field(249, "their iterations after the start", ge=1)
    swarm_seeds: int = _field(5, "swarms that fly at once, each from a start of its own", ge=1)
    crossed: str = _field("", 'another attribute that splits the groups; "" takes Young, or the one that does most evenly')
    predictions: str = _field("", 'a table of predictions to assess, CSV, TSV or Parquet; "" takes those of this run')
    by: tuple[str, ...] = _field((), "its columns of sensitive attributes; [] takes this run's")
    truths: str = _field("{label}", "names of its columns of true labels")
    scores: str = _field("{label}_score", "names of its columns of predictions")
    own_images: int = _field(3000, "most images on which a classifier of your own is trained", ge=2)
    sweep_seeds: int = _field(3, "seeds of the searches in the sweep", ge=1)
    women: int = _field(6000, "people in the first group of the worked example", ge=1)
    men: int = _field(4000, "people in its second group", ge=1)
    women_share: float = _field(0.2, "share of the women who carry the label", gt=0, lt=1)
    men_share: float = _field(0.05, "share of the men who carry it", gt=0, lt=1)


PARTS: tuple[type[Part], ...] = (Data, Recipe, Swarm, Settings, Pick, Conditions, Machine, Pages)


class Parameters(Pages, Machine, Conditions, Pick, Settings, Swarm, Recipe, Data):
    """All parameters of one run, as the page "Parameters" lists them; frozen, and a part can be taken from them.

    An unknown name, a value out of its bounds, or values that contradict each other raise ValueError.
    """

    run: str = _field("demo", "results go to runs/<run>/")

    @model_validator(mode="after")
    def _pick(self) -> Self:
        if -1 < self.indifference < 0:
            raise ValueError(f"indifference={self.indifference} must be at least 0, or -1 for each method's own")
        if self.layers == "all" and self.start == "recalibrated":
            raise ValueError("start='recalibrated' is for heads alone: with layers='all', leave it out")
        return self

    @field_validator("run")
    @classmethod
    def _folder(cls, run: str) -> str:
        if any(
            not part or part != part.strip() or part.startswith(".") or "\\" in part or not part.isprintable()
            for part in run.split("/")
        ):
            raise ValueError(f"run={run!r} must be a plain folder name, or <sweep>/<run> for one of a sweep's")
        if run == "trainings" or run.split("/")[0] == "cache":
            raise ValueError(f"run={run!r} is the folder of decoded images or of shared trainings: choose another name")
        return run

    @property
    def seed_of_search(self) -> int:
        """The seed of the searches."""
        return self.seed if self.search_seed < 0 else self.search_seed

    def part(self, kind: type[T]) -> T:
        """The parameters of one part, such as `Recipe`."""
        return kind(**{name: getattr(self, name) for name in kind.model_fields})


def read_yaml(file: Path) -> dict[str, Any]:
    """The names and values of a YAML file, as texts, lists and dictionaries of texts. Another content raises ValueError."""
    if not file.is_file():
        raise FileNotFoundError(f"no parameter file {file}")
    try:
        values = yaml.load(file.read_text(encoding="utf-8-sig"), _Texts) or {}
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    except ValueError as error:
        raise ValueError(f"{file}, {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} must hold `name: value` lines")
    return values


def read(file: Path | None, words: list[str]) -> dict[str, Any]:
    """Values from a YAML file, overridden by `key=value` words: texts or lists of texts. Bad ones raise ValueError."""
    values, given = read_yaml(file) if file else {}, dict[str, list[str]]()
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"-p {word}: expected key=value")
        given.setdefault(name.strip(), []).append(value)
    if twice := [f"-p {name} is given as {' and as '.join(each)}" for name, each in given.items() if len(set(each)) > 1]:
        raise ValueError("; ".join(twice))
    return values | {name: each[0] for name, each in given.items()}


def named_in(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters in a notebook's namespace, papermill's injected ones included: `named_in(globals())`.

    Arrays and tables are none: a later cell may have given them such a name, and the first one is run again.
    """
    known = {name: namespace[name] for name in Parameters.model_fields if name in namespace}
    return {name: value for name, value in known.items() if not getattr(value, "ndim", 0)}


def describe(name: str) -> tuple[str, str, str]:
    """A parameter's type and range in words, its default as in YAML, and its description."""
    field = Parameters.model_fields[name]
    kinds: dict[Any, str] = {int: "whole number", float: "number", bool: "true or false", str: "word"}
    forms: dict[Any, str] = {dict: "names with values", UnionType: "word or list"}
    kind = kinds.get(field.annotation) or forms.get(get_origin(field.annotation), "list")
    if get_origin(field.annotation) is Literal:
        kind = ", ".join(option or '""' for option in get_args(field.annotation))
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [(sign, getattr(one, key)) for key, sign in signs.items() for one in field.metadata if hasattr(one, key)]
    limits = [f"{sign} {'2⁶³' if value == 2**63 else value}" for sign, value in bounds]
    default = json.dumps(field.default) if field.default == "" or not isinstance(field.default, str) else field.default
    return " ".join([kind, *limits]), default, field.description or ""


def schema(kind: type[Part] = Parameters, **own: Any) -> str:
    """JSON schema of `params/*.yml`, for editors that complete and check them; `own` takes the place of properties."""
    content = kind.model_json_schema()
    del content["description"]
    content["properties"] = dict(sorted((content["properties"] | own).items()))
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _words(error: Any, part: type[Part]) -> str:
    """One of pydantic's errors as a line: the parameter, its value, and the requirement."""
    place, value, context = error["loc"], error["input"], error.get("ctx", {})
    if error["type"] == "extra_forbidden":
        return unknown("parameter", place[0], part.model_fields)
    if error["type"] == "value_error" and str(context["error"]):
        return str(context["error"])
    field = part.model_fields[place[0]]
    if error["type"] == "literal_error":
        return unknown(place[0], value, get_args(field.annotation))
    wanted = MUST_BE.get(error["type"], "a whole number" if field.annotation is int else "a number").format(**context)
    shown = repr(value) if len(repr(value)) <= LONGEST else f"{repr(value)[:LONGEST]}…"
    return f"{place[0]}={shown} must be {wanted} ({field.description})"
