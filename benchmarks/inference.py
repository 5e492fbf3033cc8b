"""Seconds for one image of full size, ours beside transformers in one process, and images a second of glyph-tiny.

    OMP_NUM_THREADS=1 python benchmarks/inference.py [--rounds 5] [--keep]

The same weights (Swin-T, BERT-base) in transformers in float32, in ours in float32 and in ours in bfloat16 take turns
on the same image of 800 x 1066 pixels and the same three names; medians of all rounds. CPU seconds, of user and system,
hardly depend on what else the machine does; wall seconds do.

The weights are random, yet offsets, layer scales and heads are drawn as well: as a model starts they are so small or
equal that mistakes in what they multiply would not show. Agreement is that of the peer's 100 best boxes: how many have
a box of ours within 0.05 pixels with a score within 0.0001. Content queries are alike, since among thousands of
proposals some score alike within rounding, and which of them comes first is random.

The last ratios, from inference.json, are printed beside the new ones; --keep writes the new ones there.
It needs 5 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import MMGroundingDinoConfig, MMGroundingDinoForObjectDetection

from grounding_model import load_detector
from grounding_model.checkpoints.checkpoint import Checkpoint
from grounding_model.checkpoints.weights import load_checkpoint
from grounding_model.glyphs import categories_of, draw_scene
from grounding_model.inputs.image_batch import ImageBatch
from grounding_model.inputs.tokens import SEPARATORS, TextBatch, tokenize
from grounding_model.model.precision import use_bfloat16

KEPT = Path(__file__).with_name("inference.json")
HEIGHT, WIDTH = 800, 1066
CAPTION = "red cat. blue star. dog. "
BEST = 100
SCENES = 80
PEER = "transformers float32"


class Answer(NamedTuple):
    scores: Tensor  # (Q,) of the best token
    boxes: Tensor  # (Q, 4) cxcywh in pixels


class Cost(NamedTuple):
    cpu: float
    wall: float


@torch.no_grad()
def drawn_peer() -> MMGroundingDinoForObjectDetection:
    torch.manual_seed(5)
    peer = MMGroundingDinoForObjectDetection(MMGroundingDinoConfig())
    for name, parameter in peer.named_parameters():
        is_matrix = parameter.dim() > 1 or "embed" in name
        parameter.add_(torch.randn_like(parameter) * (0.02 if is_matrix else 0.1))
    embeddings = peer.model.query_position_embeddings.weight
    embeddings[:] = embeddings[0].clone()
    return peer.eval()


def same_in_ours(peer: MMGroundingDinoForObjectDetection) -> Checkpoint:
    with TemporaryDirectory() as folder:
        peer.save_pretrained(folder)
        load_detector("glyph-tiny", device="cpu").tokenizer.save_pretrained(folder)
        ours = load_checkpoint(folder)
    # transformers knows the separators by their numbers in BERT's own vocabulary; this one is smaller.
    peer.model.special_tokens = torch.tensor(ours.tokenizer.convert_tokens_to_ids(list(SEPARATORS)))
    ours.model.eval()
    return ours


def contestants() -> dict[str, Callable[[], Answer]]:
    peer = drawn_peer()
    ours = same_in_ours(peer)
    images = ImageBatch(torch.randn(1, 3, HEIGHT, WIDTH), torch.tensor([[HEIGHT, WIDTH]]))
    text = tokenize([CAPTION], ours.tokenizer)
    rounded = deepcopy(ours.model)
    use_bfloat16(rounded)

    def of_peer() -> Answer:
        found = peer(
            pixel_values=images.pixels,
            input_ids=text.input_ids,
            attention_mask=text.token_mask.long(),
            token_type_ids=torch.zeros_like(text.input_ids),
        )
        return answer(found.logits[0], found.pred_boxes[0], text)

    def of_model(model: torch.nn.Module) -> Answer:
        found = model(images, text)
        return answer(found.logits[-1, 0], found.boxes[-1, 0], text)

    return {
        PEER: of_peer,
        "ours float32": lambda: of_model(ours.model),
        "ours bfloat16": lambda: of_model(rounded),
    }


def answer(logits: Tensor, boxes: Tensor, text: TextBatch) -> Answer:
    scores = logits[:, : text.input_ids.shape[1]].sigmoid().amax(-1)
    return Answer(scores, boxes * boxes.new_tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]))


def agreement(expected: Answer, found: Answer) -> dict[str, float]:
    """Of the best boxes: the share that has an equal one, and the median and largest distance to the nearest."""
    best = expected.scores.topk(BEST).indices
    distance = torch.cdist(expected.boxes[best], found.boxes, p=torch.inf)
    score = (expected.scores[best, None] - found.scores).abs()
    nearest = distance.amin(1)
    equal = ((distance <= 0.05) & (score <= 1e-4)).any(1)
    return {
        "equal": equal.sum().item(),
        "median_pixels": nearest.median().item(),
        "largest_pixels": nearest.max().item(),
        "score": score.gather(1, distance.argmin(1, keepdim=True)).median().item(),
    }


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def costs(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, Cost]:
    """Medians; the contestants take turns. Each should have run once before."""
    taken: dict[str, list[Cost]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, run in work.items():
            cpu, wall = cpu_seconds(), time.perf_counter()
            run()
            taken[name].append(Cost(cpu_seconds() - cpu, time.perf_counter() - wall))
    return {name: Cost(*(median(column) for column in zip(*turns))) for name, turns in taken.items()}


def small_model() -> dict[str, Callable[[], object]]:
    """The embedded model over drawn scenes, at one and at four images a batch."""
    pictures = [draw_scene("source", 9000, index, "od", pairs="all")[0] for index in range(SCENES)]
    names = list(categories_of("source", "od"))
    detectors = {dtype: load_detector(device="cpu", dtype=dtype) for dtype in ("float32", "bfloat16")}

    def predict(dtype: str, batch_size: int) -> Callable[[], object]:
        return lambda: detectors[dtype].predict(pictures, names, batch_size=batch_size)

    return {f"glyph-tiny {dtype}, batch {size}": predict(dtype, size) for dtype in detectors for size in (1, 4)}


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, tuple("---" for _ in heads), *rows))


def beside(new: float, last: float | None) -> str:
    return f"{new:.2f}" if last is None else f"{new:.2f} (last: {last:.2f})"


def full_size(rounds: int, last: dict[str, float]) -> dict[str, float]:
    """Prints the table of one image of full size -> how many times faster than the peer each of ours is."""
    runs = contestants()
    answers = {name: run() for name, run in runs.items()}
    agreements = {name: agreement(answers[PEER], found) for name, found in answers.items()}
    taken = costs(dict(runs), rounds)
    ratios = {name: taken[PEER].cpu / cost.cpu for name, cost in taken.items()}
    rows = [
        (
            name,
            f"{cost.cpu:.2f}",
            f"{cost.wall:.2f}",
            beside(ratios[name], last.get(name)),
            f"{agreements[name]['equal']:.0f}",
            f"{agreements[name]['median_pixels']:.4f}, {agreements[name]['largest_pixels']:.4f}",
            f"{agreements[name]['score']:.1e}",
        )
        for name, cost in taken.items()
    ]
    heads = (
        "800 x 1066, three names", "CPU s", "wall s", "times the peer's speed",
        f"equal of {BEST} best", "pixels: median, largest", "score: median",
    )  # fmt: skip
    print(table(heads, rows), flush=True)
    return ratios


def embedded(rounds: int, last: dict[str, float]) -> dict[str, float]:
    """Prints the table of the embedded model -> images a CPU second."""
    work = small_model()
    for run in work.values():
        run()
    speeds = {name: SCENES / cost.cpu for name, cost in costs(work, rounds).items()}
    print(table(("embedded model", "images a CPU s"), [(n, beside(v, last.get(n))) for n, v in speeds.items()]))
    return speeds


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", action="store_true", help="write the new ratios into inference.json")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    last = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    new = full_size(arguments.rounds, last) | embedded(arguments.rounds, last)
    print(f"load of the machine meanwhile: {os.getloadavg()[1]:.1f} processes on {os.cpu_count()} cores")
    if arguments.keep:
        KEPT.write_text(json.dumps({name: round(value, 3) for name, value in new.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
