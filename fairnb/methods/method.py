"""Declaration of a method: once, in its own file, for the experiment, the comparison, the tables and the figures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fairnb.methods.pick import Search
from fairnb.methods.problem import Problem
from fairnb.run.parameters import Parameters


@dataclass(frozen=True)
class Method:
    """A way to move the base model's heads."""

    name: str  # as in tables and figures
    search: Callable[[Problem, Parameters], Search] | None  # solves a problem by a run's parameters; None for the base model
    takes: frozenset[str]  # parameters that the result depends on, beyond the base model's
    # source of the group in a prediction: "given" with each image, or "inferred" from it by weights that were moved with the
    # group in view
    group: Literal["given", "inferred", "unused"]
    colour: str  # `#rrggbb`
    marker: str  # matplotlib's
    reference: str = ""  # key of its source in the book's bibliography; empty if it is this project's own
    paper: bool = False  # whether it is one of the paper's
    both_layers: Callable[[Parameters], bool] = lambda _: False  # whether it also moves the layer before the last

    @property
    def file(self) -> str:
        """Prefix of its file names in a run's folder."""
        return self.name.lower().replace(" ", "_").replace("-", "_")
