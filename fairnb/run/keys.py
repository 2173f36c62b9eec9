"""Keys of cached results, digests of their inputs, and random generators by purpose."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch  # slow to import, and keys do not need it
    from torch import Tensor


def content_key(content: Any) -> str:
    """Twelve hex digits that identify a JSON value: the key of a cached result."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def digest_files(root: Path, paths: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of each file that exists, by its path relative to `root`: their part of a key."""
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()}


def digest(values: Tensor) -> str:
    """SHA-256 of a tensor's values: its part of a key."""
    return hashlib.sha256(values.cpu().contiguous().numpy().tobytes()).hexdigest()


def seeded(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A separate generator for each purpose, seeded by the hash of the seed and the names of the purpose."""
    import torch

    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))
