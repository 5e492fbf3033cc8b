"""A step of training, forward and backward, of ours beside transformers: seconds, memory, gradients.

    OMP_NUM_THREADS=1 python benchmarks/training_step.py [--size 480,640] [--batch 2] [--rounds 3] [--keep]

The two programs have different losses, so both get the same one: a fixed random weighting of all output scores. (Boxes
are left out: transformers stops their gradient between decoder layers, the reference does not.)
They start from the same weights (Swin-T, BERT-base; see peers.py) and nothing is random, so that the gradients can be
compared: for each weight, the largest difference relative to the largest entry of its gradient; of these, the median
and the 99th percentile over all weights. "ours, recomputing" recomputes the activations of whole layers
(`recompute = true` of a training).

Each model runs in a process of its own, one after the other by turns, so that the memory of the largest is enough:
about 18 GiB for transformers at batch 2 of 800 x 1066, 8 for ours. Memory is what the process has grown by at its peak
since it held model and gradients (Linux, VmHWM). The gradients of the peer go through a file of 700 MB.
The last ratios, from training_step.json, are printed beside the new ones; --keep writes the new ones there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from peers import PEER, costs, drawn_peer, same_in_ours, use_threads
from results import arguments, beside, finish, last_ratios, table
from torch import Tensor, nn
from transformers import MMGroundingDinoForObjectDetection

from grounding_model.inputs.image_batch import ImageBatch
from grounding_model.inputs.tokens import TextBatch, tokenize
from grounding_model.model.activation_checkpointing import set_recompute
from grounding_model.model.kernels.compiled_gather import use_compiled_gather

CAPTION = "red cat. blue star. dog. "
OURS, RECOMPUTING = "ours float32", "ours, recomputing"
GIB = 2**30


def judged(logits: Tensor) -> Tensor:
    """The loss of both: (B, Q, L) logits under fixed random weights."""
    return (logits.sigmoid() * torch.rand(logits.shape, generator=torch.Generator().manual_seed(0))).mean()


def models(batch: int, height: int, width: int, only: str | None = None) -> dict[str, tuple[nn.Module, Callable]]:
    """-> model and its step, by name. only: nothing else is held in memory."""
    peer = drawn_peer()
    ours = same_in_ours(peer)
    images = ImageBatch(torch.randn(batch, 3, height, width), torch.tensor([[height, width]] * batch))
    text = tokenize([CAPTION] * batch, ours.tokenizer)
    model = ours.model
    use_compiled_gather(model)  # as a training does

    def ours_with(recompute: bool) -> Callable[[], Tensor]:
        def step() -> Tensor:
            set_recompute(model, recompute)
            found = model(images, text)
            return stepped(model, found.logits[-1])

        return step

    made: dict[str, tuple[nn.Module, Callable]] = {
        PEER: (peer, lambda: peer_step(peer, images, text)),
        OURS: (model, ours_with(False)),
        RECOMPUTING: (model, ours_with(True)),
    }
    return {name: made[name] for name in made if only in (None, name)}


def peer_step(peer: MMGroundingDinoForObjectDetection, images: ImageBatch, text: TextBatch) -> Tensor:
    found = peer(
        pixel_values=images.pixels,
        input_ids=text.input_ids,
        attention_mask=text.token_mask.long(),
        token_type_ids=torch.zeros_like(text.input_ids),
    )
    return stepped(peer, found.logits[..., : text.input_ids.shape[1]])


def stepped(model: nn.Module, logits: Tensor) -> Tensor:
    model.zero_grad()
    loss = judged(logits)
    loss.backward()
    return loss.detach()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """By our names; the peer's are renamed as its weights are, by way of a folder."""
    if not isinstance(model, MMGroundingDinoForObjectDetection):
        return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    values = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    with torch.no_grad(), TemporaryDirectory() as folder:
        for weight in model.parameters():
            weight.copy_(torch.zeros_like(weight) if weight.grad is None else weight.grad)
        model.save_pretrained(folder)
        ours = same_in_ours(model).model.state_dict()
        for name, weight in model.named_parameters():
            weight.copy_(values[name])
    return ours


def differences(expected: dict[str, Tensor], found: dict[str, Tensor]) -> Tensor:
    """Of each weight that has a gradient: the largest difference, relative to its largest gradient."""
    pairs = [(expected[name], grad) for name, grad in found.items() if name in expected]
    return torch.stack([(a - b).abs().max() / a.abs().max() for a, b in pairs if a.abs().max() > 1e-10])


class Measured(NamedTuple):
    """One model, measured in its own process. apart: median and 99th percentile of the gradients' differences."""

    cpu: float
    wall: float
    gib: float
    loss: float
    apart: tuple[float, float]


def measure_one(name: str, batch: int, size: tuple[int, int], file: Path) -> Measured:
    """A first step for memory, loss and gradients, which are compared with those of the peer in `file`, and a second
    one for the time."""
    [(model, step)] = models(batch, *size, only=name).values()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
    before = memory("VmRSS")
    loss = step().item()
    gib = (memory("VmHWM") - before) / GIB
    found = gradients(model)
    if name == PEER:
        torch.save(found, file)
    apart = differences(torch.load(file, mmap=True), found)
    del found
    taken = costs({name: step}, 1)[name]
    return Measured(*taken, gib, loss, (apart.median().item(), apart.quantile(0.99).item()))


def memory(entry: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(entry))


def in_process(name: str, options: list[str]) -> Measured:
    command = [sys.executable, __file__, *options, "--one", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Measured(*json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = arguments(__doc__, __file__, rounds=3)
    parser.add_argument("--size", default="480,640", help="height, width in pixels (default %(default)s)")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--one", help="measure this model alone")
    parser.add_argument("--gradients", type=Path, help="file for the peer's gradients, with --one")
    options = parser.parse_args()
    use_threads()
    size = tuple(int(side) for side in options.size.split(","))
    if options.one:
        print(json.dumps(measure_one(options.one, options.batch, size, options.gradients)))
        return
    last = last_ratios(__file__)
    turns: dict[str, list[Measured]] = {name: [] for name in (PEER, OURS, RECOMPUTING)}
    with TemporaryDirectory() as folder:
        chosen = ["--size", options.size, "--batch", str(options.batch), "--gradients", f"{folder}/gradients.pt"]
        for _ in range(options.rounds):
            for name, measured in turns.items():
                measured.append(in_process(name, chosen))
    new = report(f"batch {options.batch}, {size[0]} x {size[1]}", turns, last)
    finish(__file__, last | new, options.keep)


def report(case: str, turns: dict[str, list[Measured]], last: dict[str, float]) -> dict[str, float]:
    """Prints the table -> the ratios."""
    cpu, wall, gib = (
        {name: median(getattr(each, field) for each in measured) for name, measured in turns.items()}
        for field in ("cpu", "wall", "gib")
    )
    new = {f"{name}, {case}": cpu[PEER] / cpu[name] for name in turns}
    new |= {f"{name}, {case}, memory": gib[name] / gib[PEER] for name in turns}
    rows = [
        (
            name,
            f"{cpu[name]:.1f}",
            f"{wall[name]:.1f}",
            beside(new[f"{name}, {case}"], last.get(f"{name}, {case}")),
            f"{gib[name]:.2f}",
            beside(new[f"{name}, {case}, memory"], last.get(f"{name}, {case}, memory")),
            f"{measured[0].loss:.6f}",
            ", ".join(f"{part:.1e}" for part in measured[0].apart),
        )
        for name, measured in turns.items()
    ]
    heads = (
        case, "CPU s", "wall s", "times the peer's speed", "GiB", "of the peer's memory", "loss",
        "gradients: median, 99 %",
    )  # fmt: skip
    print(table(heads, rows), flush=True)
    return new


if __name__ == "__main__":
    main()
