"""Optional sampling on a CPU by a loop in C++ (gather.cpp), compiled once by this machine's compiler.

It computes the same as attention.sample_rows, up to rounding, in less than half the time, because the corners of a
point are never written to memory. Without a compiler, or with GROUNDHOG_COMPILE=0, the plain layer is used.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from grounding_model.model.attention import DeformableAttention, LevelSizes, level_constants
from grounding_model.model.grounding import GroundingModel

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("gather.cpp")
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")
BUILD_SECONDS = 60
POINTER, LONG, INT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int


def use_compiled_gather(model: GroundingModel) -> bool:
    """Replaces the plain sampling by the compiled loop, in place; returns whether the loop could be built."""
    if library() is None:
        return False
    for module in model.modules():
        if type(module) is DeformableAttention:
            module.__class__ = CompiledDeformableAttention
    return True


class CompiledDeformableAttention(DeformableAttention):
    """Falls back to the plain layer in training and on other devices."""

    def sample(
        self, table: Tensor, sizes: LevelSizes, first_rows: Tensor, locations: Tensor, weights: Tensor
    ) -> Tensor:
        if torch.is_grad_enabled() or table.device.type != "cpu" or table.dtype not in NAMES:
            return super().sample(table, sizes, first_rows, locations, weights)
        return compiled_sample_rows(table, sizes, first_rows, locations, weights)


NAMES = {torch.float32: "gather_float32", torch.bfloat16: "gather_bfloat16"}


def compiled_sample_rows(
    table: Tensor, sizes: LevelSizes, first_rows: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """Like attention.sample_rows, without gradient -> (N, C) float32. Requires library() to be available."""
    queries, heads, levels, points = weights.shape
    output = torch.empty(queries, heads * table.shape[1])
    constants = level_constants(sizes, table.device)
    inputs = (table, constants, first_rows, locations.float(), weights.float())
    held = [each.contiguous() for each in inputs]  # keeps them alive until the loop has finished
    getattr(library(), NAMES[table.dtype])(
        *(each.data_ptr() for each in (*held, output)),
        queries, heads, levels, points, table.shape[1], torch.get_num_threads(),
    )  # fmt: skip
    return output


@cache
def library() -> ctypes.CDLL | None:
    """The compiled loop, from the user's cache if an earlier process built it; None if it cannot be built."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None or os.environ.get("GROUNDHOG_COMPILE") == "0":
        return None
    try:
        loaded = ctypes.CDLL(str(_built(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        logger.info("cannot compile the sampling loop, using the slower plain one: %s", error)
        return None
    for name in NAMES.values():
        function = getattr(loaded, name)
        function.argtypes, function.restype = [POINTER] * 6 + [LONG] + [INT] * 5, None
    return loaded


def _built(compiler: str) -> Path:
    """The library file. Its name contains a digest of what it depends on: the source, the compiler, the CPU."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=BUILD_SECONDS).stdout
    parts = (SOURCE.read_bytes(), version, " ".join(FLAGS).encode(), repr(torch.cpu.get_capabilities()).encode())
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "groundhog"
    path = folder / f"gather-{digest}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder) as temporary:
            built = Path(temporary) / path.name
            command = [compiler, *FLAGS, str(SOURCE), "-o", str(built)]
            subprocess.run(command, capture_output=True, check=True, timeout=BUILD_SECONDS)
            built.replace(path)  # atomic: another process may be building it too
    return path
