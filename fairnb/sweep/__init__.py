"""Sweeps: many runs, planned in one file, on one machine or many, by Dask.

>>> from fairnb.sweep.plan import SweepFile
>>> SweepFile(stages=["multi-task"], set={"seed": 1}, grid={"seed": [0, 1]})
Traceback (most recent call last):
ValueError: seed is named twice: give each parameter once, in set, grid, zip or runs
"""
