"""Generated input for every reader: a right result, or one clear error; never a traceback, a silent drop or another file.

A property has three rounds of examples: one by `pytest`, a longer one by `pytest -m slow`, both the same on every machine,
and a random one of twenty times that length by `pytest -m soak`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import told

T = TypeVar("T")
CLEAR = (ValueError, OSError)  # and what is derived from OSError, but not from ValueError, such as UnicodeDecodeError
LINES, LONGEST = 3, 2000  # of a message
CALM: Any = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": False}


def fuzzed(quick: int, slow: int, **strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Any]:
    """Make a test of a property: `quick` examples by default (0: none), `slow` in the slow suite, 20 times that in the soak.

    Examples that once failed stand below it, by hypothesis's `@example`.
    """
    rounds = [pytest.param(slow, marks=pytest.mark.slow), pytest.param(20 * slow, marks=pytest.mark.soak)]

    def of(check: Callable[..., None]) -> Any:
        @pytest.mark.parametrize("examples", [quick, *rounds] if quick else rounds)
        def test(examples: int) -> None:
            tried = count()

            @wraps(check)
            def counted(**values: Any) -> None:
                next(tried)
                check(**values)

            known = examples != 20 * slow
            settings(max_examples=examples, derandomize=known, database=None, **CALM)(given(**strategies)(counted))()
            told.tell("fuzzed.csv", what_must_hold=words, examples=next(tried))

        words = check.__name__.removeprefix("test_").replace("_", " ")

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return of


def result_or_line(work: Callable[[], T], *names: str) -> T | None:
    """What `work` returns, or None for an error of a few lines in which one of `names` stands; another error passes."""
    try:
        return work()
    except CLEAR as error:
        words = str(error)
        if isinstance(error, ValueError) and type(error) is not ValueError:
            raise
        assert 0 < len(words.splitlines()) <= LINES, words
        assert len(words) <= LONGEST, words
        assert any(name in words for name in names), f"none of {names} is named: {words}"
        return None


@contextmanager
def folder() -> Iterator[Path]:
    """A new empty folder, gone afterwards."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def listing(root: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, with its size and time."""
    files = (Path(here, name) for here, _, names in os.walk(root) for name in names)
    return {str(file.relative_to(root)): (file.lstat().st_size, file.lstat().st_mtime_ns) for file in files}
