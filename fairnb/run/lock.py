"""A lock on a folder: one process at a time works there, and tidies up after one that was killed.

The lock's empty file stays: were it deleted, a process that has just opened it would hold a lock that nobody else sees.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fairnb.run.files import clear_halves


@contextmanager
def alone(folder: Path, work: str = "work", *, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock for a kind of work in `folder`, which is made; ValueError if another one still has it after `wait` s.

    Half-written files of processes that are gone are deleted. OSError if the folder cannot be written to.
    """
    lock = FileLock(folder / f".{work}.lock", timeout=wait)  # the system releases it, however the program ends
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ValueError(f"another process is at work in {folder}: wait for it, or choose another run") from None
    except OSError as error:
        raise OSError(f"{folder} cannot be written to ({error.strerror or error}): choose another place for runs") from error
    try:
        clear_halves(folder)
        yield
    finally:
        lock.release()
