"""fairnb: underestimation bias in image classifiers, assessed and mitigated by multi-objective particle swarms.

An implementation of Blanzeisky and Cunningham, "Beyond Accuracy: Addressing Underestimation Bias in Multi-Label Image
Classification through Multi-Objective Optimization". The road is straight:

    data → base model → features → search → front → pick → model → table of results → figure

and each arrow is one function: see `fairnb.experiment.Experiment` for all of them in order.
"""
