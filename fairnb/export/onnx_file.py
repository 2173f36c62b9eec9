"""model.onnx: written by torch's exporter, run by ONNX Runtime."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairnb.export.network import FromPixels

INPUTS = {"uint8": torch.uint8, "float": torch.float32}  # types of pixels
LARGEST = 2**31 - 2**26  # bytes: a file of ONNX holds less than 2 GiB, more goes into a file beside it


def write_onnx(path: Path, network: FromPixels, config: Mapping[str, Any]) -> int:
    """Write a network with a dynamic batch, and return its opset: the one that torch recommends."""
    size = config["image_size"]
    example = torch.zeros(2, size, size, 3, dtype=INPUTS[config["input"]])
    weights = sum(value.nbytes for value in network.state_dict().values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own deprecations
        program = torch.onnx.export(
            network, (example,), dynamo=True, input_names=[config["input_name"]], output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
        )  # fmt: skip
    assert program
    program.save(path, external_data=weights > LARGEST)
    return program.model.opset_imports[""]


def run_onnx(path: Path, batches: Iterable[Tensor], config: Mapping[str, Any]) -> list[Tensor]:
    """Logits float32 [B, L] of batches of pixels uint8 [B, S, S, 3], by ONNX Runtime on the CPU."""
    import onnxruntime  # of the extra `export`

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    pixels = ({config["input_name"]: batch.to(INPUTS[config["input"]]).numpy()} for batch in batches)
    return [torch.from_numpy(session.run(None, given)[0]) for given in pixels]
