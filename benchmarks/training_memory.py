"""Compares the memory estimated by grounding_model.training.memory with that of real training steps.

    python benchmarks/training_memory.py [--device cuda] [--cases glyph-tiny,16,160,160 swin-t,1,480,640 …]

prints a Markdown table. A case is VARIANT,BATCH,HEIGHT,WIDTH, and any of bfloat16, recompute. Each runs in a separate
process: a model with random weights takes two steps on random pixels, with 100 boxes per image and the longest
captions.
"Real" is the growth of the process at its peak since a first, very small step, which loads what PyTorch loads on first
use (Linux, VmHWM); on a GPU, PyTorch's peak of allocated memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from grounding_model.data.samples import TrainingBatch
from grounding_model.inputs.image_batch import ImageBatch
from grounding_model.inputs.tokens import TextBatch
from grounding_model.model.activation_checkpointing import set_recompute
from grounding_model.model.config import VARIANTS
from grounding_model.model.grounding import GroundingModel
from grounding_model.model.targets import Target
from grounding_model.training.config import Precision
from grounding_model.training.memory import GIB, MAX_BOXES, MemoryEstimate, estimate_memory
from grounding_model.training.objective import Objective
from grounding_model.training.optimizer import build_optimizer
from grounding_model.training.settings import LossSettings, OptimizerConfig
from grounding_model.training.state import AUTOCAST

CASES = (
    "glyph-tiny,16,160,160",
    "glyph-tiny,8,320,320",
    "glyph-tiny,16,160,160,bfloat16",
    "glyph-tiny,8,320,320,recompute",
    "swin-t,1,320,320",
    "swin-t,1,480,640",
    "swin-t,1,480,640,recompute",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps({"real": measure(options.one, torch.device(options.device))}))
        return
    print("| case | seconds | estimate, GiB | real, GiB | estimate / real |\n|:--|--:|--:|--:|--:|", flush=True)
    for case in options.cases:
        began = time.perf_counter()
        estimated = estimate(case).total
        seconds = time.perf_counter() - began
        command = [sys.executable, __file__, "--device", options.device, "--one", case]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        real = json.loads(done.stdout.splitlines()[-1])["real"]
        row = (case, f"{seconds:.1f}", f"{estimated / GIB:.2f}", f"{real / GIB:.2f}", f"{estimated / real:.2f}")
        print(f"| {' | '.join(row)} |", flush=True)


def parsed(case: str) -> tuple[str, int, tuple[int, int], Precision, bool]:
    variant, batch_size, height, width, *flags = case.split(",")
    precision: Precision = "bfloat16" if "bfloat16" in flags else "float32"
    return variant, int(batch_size), (int(height), int(width)), precision, "recompute" in flags


def estimate(case: str) -> MemoryEstimate:
    variant, batch_size, size, precision, recompute = parsed(case)
    with torch.device("meta"):
        model = GroundingModel(VARIANTS[variant])
    tokens = model.config.max_text_tokens
    return estimate_memory(model, batch_size, size, tokens, precision=precision, recompute=recompute)


def measure(case: str, device: torch.device) -> int:
    """Bytes that two real steps take."""
    take_steps("glyph-tiny,1,64,64", device)
    if device.type == "cuda":
        take_steps(case, device)
        return torch.cuda.max_memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = of_this_process("VmRSS")
    take_steps(case, device)
    return of_this_process("VmHWM") - before


def take_steps(case: str, device: torch.device) -> None:
    variant, batch_size, size, precision, recompute = parsed(case)
    torch.manual_seed(0)
    model = GroundingModel(VARIANTS[variant]).to(device).train()
    set_recompute(model, recompute)
    objective = Objective(model, LossSettings(), autocast=AUTOCAST[precision])
    optimizer = build_optimizer(objective, OptimizerConfig())
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        torch.stack([*objective(batch(model, batch_size, size, device)).values()]).sum().backward()
        optimizer.step()


def batch(model: GroundingModel, count: int, size: tuple[int, int], device: torch.device) -> TrainingBatch:
    tokens = model.config.max_text_tokens
    text = TextBatch(
        torch.randint(5, model.config.text.vocab_size, (count, tokens)),
        torch.ones(count, tokens, dtype=torch.bool),
        torch.arange(tokens).expand(count, tokens),
        torch.ones(count, tokens, tokens, dtype=torch.bool),
    )
    images = ImageBatch(torch.randn(count, 3, *size), torch.tensor(size).expand(count, 2).clone())
    images.sizes[0] -= 8  # of one image something is padding
    targets = [
        Target(
            boxes=torch.rand(MAX_BOXES, 4) * 0.4 + 0.2,
            tokens=torch.rand(MAX_BOXES, tokens) < 0.1,
            labels=torch.randint(0, 80, (MAX_BOXES,)),
            weights=torch.ones(MAX_BOXES),
            ignore=torch.zeros(MAX_BOXES, dtype=torch.bool),
            size=size,
        ).to(device)
        for _ in range(count)
    ]
    return TrainingBatch(images, text, targets, names=[], problems=[]).to(device)


def of_this_process(name: str) -> int:
    """Bytes that Linux says of this process: VmRSS now, VmHWM at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise OSError(f"/proc/self/status does not tell {name}")


if __name__ == "__main__":
    main()
