"""Evidence for differences between methods: intervals over people and seeds, corrected for many labels.

>>> import torch
>>> from fairnb.evidence.weigh import holm
>>> holm(torch.tensor([0.01, 0.04, 0.5], dtype=torch.float64)).tolist()  # p-values of three labels
[0.03, 0.08, 0.5]
"""
