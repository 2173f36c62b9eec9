"""fairnb: measure and mitigate underestimation bias in image classifiers by multi-objective particle swarms.

It implements Blanzeisky and Cunningham, "Beyond Accuracy: Addressing Underestimation Bias in Multi-Label Image
Classification through Multi-Objective Optimization". In `fairnb.experiment.Experiment` each arrow is one function:

    data → base model → features → search → front → pick → model → table of results → figure

>>> import torch
>>> from fairnb import contingency_table, underestimation_index, underestimation_score
>>> truth, group = torch.tensor([1, 1, 0, 0, 1, 1, 0, 0]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
>>> table = contingency_table(torch.tensor([1, 0, 0, 0, 1, 1, 0, 0]), truth, group)  # counts [group, truth, prediction]
>>> underestimation_score(table).tolist()  # the first group's positives are predicted half as often as they occur
[0.5, 1.0]
>>> round(float(underestimation_index(table)), 3)
0.131
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# What others may use, by the road, with the room that holds it. Each is imported on first use, since torch takes seconds.
# `__all__` and the book's page "API" follow; a new name also goes into the imports below.
ROAD = {
    "Data": {"open_dataset": "data"},
    "Model and search": {"Experiment": "experiment", "Parameters": "run.parameters", "METHODS": "methods"},
    "Evidence": {"contingency_table": "metrics", "underestimation_score": "metrics", "underestimation_index": "metrics"},
    "A classifier of your own": dict.fromkeys(("assess", "Assessment", "Sample", "mitigate", "Mitigation"), "yours"),
}
_ROOMS = {name: room for names in ROAD.values() for name, room in names.items()}
__all__ = [*_ROOMS]

if TYPE_CHECKING:  # the same names for type checkers and editors, which read no further than this
    from fairnb.data import open_dataset as open_dataset
    from fairnb.experiment import Experiment as Experiment
    from fairnb.methods import METHODS as METHODS
    from fairnb.metrics import contingency_table as contingency_table
    from fairnb.metrics import underestimation_index as underestimation_index
    from fairnb.metrics import underestimation_score as underestimation_score
    from fairnb.run.parameters import Parameters as Parameters
    from fairnb.yours import Assessment as Assessment
    from fairnb.yours import Mitigation as Mitigation
    from fairnb.yours import Sample as Sample
    from fairnb.yours import assess as assess
    from fairnb.yours import mitigate as mitigate
else:

    def __getattr__(name: str) -> Any:
        if name not in _ROOMS:
            raise AttributeError(f"module 'fairnb' has no attribute {name!r}")
        globals()[name] = found = getattr(import_module(f"fairnb.{_ROOMS[name]}"), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
