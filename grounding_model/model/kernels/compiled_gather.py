"""Optional sampling on a CPU by a loop in C++ (gather.cpp), compiled once by this machine's compiler.

It computes the same as attention.sample_rows, up to rounding, in less than half the time, because the corners of a
point are never written to memory; in training the gradient too, which takes a fifth of the plain layer's time. Without
a compiler, or with GROUNDHOG_COMPILE=0, the plain layer is used.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.autograd.function import FunctionCtx, once_differentiable

from grounding_model.model.attention import DeformableAttention, LevelSizes, level_constants
from grounding_model.model.grounding import GroundingModel

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("gather.cpp")
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")
BUILD_SECONDS = 60
SWITCHED_OFF = ("0", "false", "no", "off")  # values of GROUNDHOG_COMPILE
DIGEST_BYTES = hashlib.sha256().digest_size  # after the code in the library file; the loader ignores what follows it
POINTER, LONG, INT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int


def use_compiled_gather(model: GroundingModel) -> bool:
    """Replaces the plain sampling by the compiled loop, in place; returns whether the loop could be built."""
    if library() is None:
        return False
    sample_compiled(model)
    return True


def sample_compiled(model: GroundingModel) -> None:
    """use_compiled_gather, whether or not the loop can be built: for fake tensors, which never reach it."""
    for module in model.modules():
        if type(module) is DeformableAttention:
            module.__class__ = CompiledDeformableAttention


class CompiledDeformableAttention(DeformableAttention):
    """Falls back to the plain layer on other devices and for other number formats."""

    # What the gradient needs is smaller than what the plain layer would store, and there is one call for all queries.
    recomputes_chunks = False

    def sample(
        self, table: Tensor, sizes: LevelSizes, first_rows: Tensor, locations: Tensor, weights: Tensor
    ) -> Tensor:
        if table.device.type != "cpu" or table.dtype not in NAMES:
            return super().sample(table, sizes, first_rows, locations, weights)
        if torch.is_grad_enabled():
            return differentiable_sample_rows(table, sizes, first_rows, locations, weights)
        return compiled_sample_rows(table, sizes, first_rows, locations, weights)


NAMES = {torch.float32: "gather_float32", torch.bfloat16: "gather_bfloat16"}
BACKWARD = "gather_back"


def compiled_sample_rows(
    table: Tensor, sizes: LevelSizes, first_rows: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """Like attention.sample_rows, without gradient -> (N, C) float32. Requires library() to be available."""
    output = torch.empty(len(weights), weights.shape[1] * table.shape[1])
    inputs = (table, level_constants(sizes, table.device), first_rows, locations.float(), weights.float())
    _call(NAMES[table.dtype], [each.contiguous() for each in inputs], [output])
    return output


def differentiable_sample_rows(
    table: Tensor, sizes: LevelSizes, first_rows: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """Like attention.sample_rows, in float32 -> (N, C). Requires library() to be available."""
    constants = level_constants(sizes, table.device)
    return _SampleRows.apply(table.float(), constants, first_rows, locations.float(), weights.float())  # type: ignore[no-any-return]


class _SampleRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, *inputs: Tensor) -> Tensor:
        """table, constants, first rows, locations, weights as in sample_rows."""
        held = [each.contiguous() for each in inputs]
        ctx.save_for_backward(*held)
        table, weights = held[0], held[-1]
        output = table.new_empty(len(weights), weights.shape[1] * table.shape[1])
        _call(NAMES[torch.float32], held, [output])
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        held = ctx.saved_tensors
        table, _, _, locations, weights = held
        grads = [torch.zeros_like(each) for each in (table, locations, weights)]
        _call(BACKWARD, [*held, grad.contiguous()], grads)
        return grads[0], None, None, *grads[1:]


def _call(name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Runs a function of the library. inputs: contiguous table, constants, first rows, locations, weights, …"""
    if is_fake(inputs[0]):  # of an estimate of memory: has no data
        return
    table, weights = inputs[0], inputs[4]
    getattr(library(), name)(
        *(each.data_ptr() for each in (*inputs, *outputs)), *weights.shape, table.shape[1], torch.get_num_threads()
    )


@cache
def library() -> ctypes.CDLL | None:
    """The compiled loop, from the user's cache if an earlier process built it; None if it cannot be built."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    if os.environ.get("GROUNDHOG_COMPILE", "").lower() in SWITCHED_OFF or not compiler or not shutil.which(compiler[0]):
        return None
    try:
        loaded = ctypes.CDLL(str(_built(compiler)))
        for name in (*NAMES.values(), BACKWARD):
            function, pointers = getattr(loaded, name), 9 if name == BACKWARD else 6
            function.argtypes, function.restype = [POINTER] * pointers + [LONG] + [INT] * 5, None
    except (OSError, subprocess.SubprocessError, RuntimeError, AttributeError) as error:
        details = getattr(error, "stderr", None) or b""
        logger.info(
            "cannot compile the sampling loop, using the slower plain one: %s %s",
            error,
            details.decode(errors="replace"),
        )
        return None
    return loaded


def _built(compiler: Sequence[str]) -> Path:
    """The library file. Its name contains a digest of what it depends on: the source, the compiler, the CPU.

    Raises RuntimeError where the user has no home folder.
    """
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=True, timeout=BUILD_SECONDS).stdout
    options = " ".join((*compiler, *FLAGS)).encode()
    parts = (SOURCE.read_bytes(), version, options, repr(torch.cpu.get_capabilities()).encode())
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "groundhog"
    path = folder / f"gather-{digest}.so"
    if not _is_whole(path):
        logger.info("compiling the sampling loop for this machine, once: %s", path)
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder) as temporary:
            built = Path(temporary) / path.name
            command = [*compiler, *FLAGS, str(SOURCE), "-o", str(built)]
            subprocess.run(command, capture_output=True, check=True, timeout=BUILD_SECONDS)
            code = built.read_bytes()
            built.write_bytes(code + hashlib.sha256(code).digest())
            built.replace(path)  # atomic: another process may be building it too
    return path


def _is_whole(path: Path) -> bool:
    """Whether the file ends in the digest of what precedes it. Loading a truncated library would crash the process."""
    if not path.is_file():
        return False
    content = path.read_bytes()
    code, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    return hashlib.sha256(code).digest() == digest
