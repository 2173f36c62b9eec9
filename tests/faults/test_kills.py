"""SIGKILL at random moments: the same command then ends with the results of an undisturbed run, and leaves no litter."""

from __future__ import annotations

from tests.faults.work import few_or_many, kills, places, search, train


@few_or_many(2, 20)
def test_a_training_is_killed(tmp_path, tell, rounds):
    lost = kills(places(tmp_path), train, rounds)
    tell("SIGKILL at a random moment", "fairnb train", went_on=rounds - lost, lost=lost)


@few_or_many(2, 20)
def test_a_search_is_killed(trained, tmp_path, tell, rounds):
    lost = kills(places(tmp_path, trained), search, rounds)
    tell("SIGKILL at a random moment", "searches: dynamic weighting, multi-task", went_on=rounds - lost, lost=lost)
