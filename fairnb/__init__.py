"""fairnb: measure and mitigate underestimation bias in image classifiers by multi-objective particle swarms.

It implements Blanzeisky and Cunningham, "Beyond Accuracy: Addressing Underestimation Bias in Multi-Label Image
Classification through Multi-Objective Optimization". In `fairnb.experiment.Experiment` each arrow is one function:

    data → base model → features → search → front → pick → model → table of results → figure

>>> import torch
>>> from fairnb.metrics import contingency_table, underestimation_index, underestimation_score
>>> truth, group = torch.tensor([1, 1, 0, 0, 1, 1, 0, 0]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
>>> table = contingency_table(torch.tensor([1, 0, 0, 0, 1, 1, 0, 0]), truth, group)  # counts [group, truth, prediction]
>>> underestimation_score(table).tolist()  # the first group's positives are predicted half as often as they occur
[0.5, 1.0]
>>> round(float(underestimation_index(table)), 3)
0.131
"""
