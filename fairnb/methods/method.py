"""Declaration of a method: once, in its own file, for the experiment, the comparison, the tables and the figures."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Literal

from fairnb.methods.pick import Search, pick_each
from fairnb.methods.problem import Problem
from fairnb.methods.recalibration import recalibrate
from fairnb.run.parameters import Conditions, Parameters, Pick
from fairnb.swarm.mopso import Fronts

PICKED_BY = Conditions.names() | {"tolerance", "indifference"}  # parameters on which picks depend, but no front


@dataclass(frozen=True)
class Method:
    """A way to move the base model's heads."""

    name: str  # as in tables and figures
    find: Callable[[Problem, Parameters], Search] | None  # solves a problem by a run's parameters; None for the base model
    takes: frozenset[str]  # parameters of its own; `depends_on` has those of every search too
    # source of the group in a prediction: "given" with each image, or "inferred" from it by weights that were moved with the
    # group in view
    group: Literal["given", "inferred", "unused"]
    colour: str  # `#rrggbb`
    marker: str  # matplotlib's
    reference: str = ""  # key of its source in the book's bibliography; empty if it is this project's own
    paper: bool = False  # whether it is one of the paper's
    library: str = ""  # the other library that it needs, from the `bench` extra
    start: Literal["base", "recalibrated"] = "base"  # heads at which it begins, unless the parameters say
    indifference: float = 0.0  # as `Problem.indifference`, unless the parameters say
    both_layers: Callable[[Parameters], bool] = lambda _: False  # whether it also moves the layer before the last
    pick: Callable[[Problem, Fronts], Search] = pick_each  # as `find` picks from the fronts that it found

    @property
    def depends_on(self) -> frozenset[str]:
        """Parameters that the result depends on, beyond the base model's."""
        return self.takes | Pick.names() | Conditions.names() if self.find else frozenset()

    def search(self, problem: Problem, given: Parameters) -> Search:
        """Solve the problem with a run's start and its parameters of the pick; see `require`."""
        self.require()
        if self.library:  # those of other libraries know no GPU
            problem = replace(problem, features=problem.features.to("cpu"))
        assert self.find, f"{self.name!r} searches nothing"
        problem = self._with_pick(problem, given)
        if (given.start or self.start) == "recalibrated":
            valid, begin = problem.valid.of_labels(problem.where), problem.heads.clone()
            fitted, paid = recalibrate(valid.x, valid.labels, problem.base_heads, seed=problem.seed)
            begin[problem.where] = fitted.to(begin.device)
            problem = replace(problem, begin=begin, paid=paid)
        found = self.find(problem, given)
        spent = found.fronts.evaluations + problem.paid
        return replace(found, fronts=replace(found.fronts, evaluations=spent))

    def pick_again(self, problem: Problem, given: Parameters, fronts: Fronts) -> Search:
        """Pick by other values of `PICKED_BY` from the fronts that a search of this problem found."""
        return self.pick(self._with_pick(problem, given), fronts)

    def require(self) -> None:
        """Raise ValueError if its library is not installed."""
        if self.library and find_spec(self.library) is None:
            raise ValueError(f'{self.name!r} needs {self.library}: pip install "fairnb[bench]"')

    @property
    def file(self) -> str:
        """Prefix of its file names in a run's folder."""
        return self.name.lower().replace(" ", "_").replace("-", "_")

    def _with_pick(self, problem: Problem, given: Parameters) -> Problem:
        """The problem with a run's parameters of the pick."""
        share = self.indifference if given.indifference < 0 else given.indifference
        own = replace(problem, tolerance=given.tolerance, held_out=given.held_out, indifference=share)
        return replace(own, conditions=given.part(Conditions))
