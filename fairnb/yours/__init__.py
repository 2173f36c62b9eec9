"""Classifiers that are not ours: assess their predictions, and mitigate.

>>> import torch
>>> from fairnb.yours import assess
>>> draw = torch.Generator().manual_seed(0)
>>> group = torch.arange(2000) % 2
>>> truth = torch.rand(2000, 1, generator=draw) < 0.2
>>> seen = torch.rand(2000, 1, generator=draw) < torch.tensor([0.9, 0.5])[group, None]  # half of group 1's are missed
>>> found = assess(truth, truth & seen, group, names=["Bald"])
>>> found.groups[["group", "positives", "predicted_positives"]].values.tolist()
[['group 0', 190, 165], ['group 1', 210, 104]]
"""

from fairnb.yours.assessment import Assessment, assess
from fairnb.yours.mitigation import Mitigation, mitigate
from fairnb.yours.sample import Sample

__all__ = ["Assessment", "Mitigation", "Sample", "assess", "mitigate"]
