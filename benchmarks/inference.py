"""Seconds per image of full size, compared with transformers in one process, and images per second of glyph-tiny.

    OMP_NUM_THREADS=1 python benchmarks/inference.py [--rounds 5] [--parts full,embedded] [--keep]

The same weights (Swin-T, BERT-base) in transformers in float32, in ours in float32 and in ours in bfloat16 take turns
on the same image of 800 x 1066 pixels and the same three names; medians of all rounds. CPU seconds (user and system)
hardly depend on the load of the machine; wall seconds do. With a C++ compiler, ours has two rows: with the plain layer
for sampling, and with the compiled loop that load_detector uses.

The weights are random, including offsets, layer scales and heads: their usual initial values are so small or equal that
errors in what they multiply would not be noticed. Agreement is measured on the 100 best boxes of transformers: how many
have one of ours within 0.05 pixels with a score within 0.0001 (equal), and how many have one with an IoU of 0.9 and a
score within 0.01 (alike), which is more suitable for bfloat16. All content queries are equal, because some of the
thousands of proposals have scores equal within rounding errors, and their order is arbitrary.

The last ratios, from inference.json, are printed beside the new ones; --keep writes the new ones there.
It needs 7 GB of memory.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import NamedTuple

import torch
from peers import PEER, costs, drawn_peer, same_in_ours, use_threads
from results import arguments, beside, finish, last_ratios, table
from torch import Tensor

from grounding_model import load_detector
from grounding_model.glyphs import categories_of, draw_scene
from grounding_model.inputs.image_batch import ImageBatch
from grounding_model.inputs.tokens import TextBatch, tokenize
from grounding_model.model.boxes import cxcywh_to_xyxy, iou_matrix
from grounding_model.model.kernels.compiled_gather import use_compiled_gather
from grounding_model.model.precision import use_bfloat16

HEIGHT, WIDTH = 800, 1066
CAPTION = "red cat. blue star. dog. "
BEST = 100
SCENES = 80


class Answer(NamedTuple):
    scores: Tensor  # (Q,) of the best token
    boxes: Tensor  # (Q, 4) cxcywh in pixels


def models() -> dict[str, Callable[[], Answer]]:
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

    models = {"ours float32": ours.model, "ours bfloat16": rounded}
    for name, model in list(models.items()):
        compiled = deepcopy(model)
        if use_compiled_gather(compiled):
            models[f"{name}, compiled"] = compiled
    return {PEER: of_peer} | {name: partial(of_model, model) for name, model in models.items()}


def answer(logits: Tensor, boxes: Tensor, text: TextBatch) -> Answer:
    scores = logits[:, : text.input_ids.shape[1]].sigmoid().amax(-1)
    return Answer(scores, boxes * boxes.new_tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]))


def agreement(expected: Answer, found: Answer) -> dict[str, float]:
    """Of the best boxes: how many have an equal one, how many one that nobody would tell apart (IoU 0.9, score within
    0.01), and the median and largest distance to the nearest."""
    best = expected.scores.topk(BEST).indices
    distance = torch.cdist(expected.boxes[best], found.boxes, p=torch.inf)
    score = (expected.scores[best, None] - found.scores).abs()
    nearest = distance.amin(1)
    equal = ((distance <= 0.05) & (score <= 1e-4)).any(1)
    iou = iou_matrix(cxcywh_to_xyxy(expected.boxes[best]), cxcywh_to_xyxy(found.boxes))
    return {
        "alike": ((iou >= 0.9) & (score <= 0.01)).any(1).sum().item(),
        "equal": equal.sum().item(),
        "median_pixels": nearest.median().item(),
        "largest_pixels": nearest.max().item(),
        "score": score.gather(1, distance.argmin(1, keepdim=True)).median().item(),
    }


def small_model() -> dict[str, Callable[[], object]]:
    """The embedded model on drawn scenes, with batches of one and of four images."""
    pictures = [draw_scene("source", 9000, index, "od", pairs="all")[0] for index in range(SCENES)]
    names = list(categories_of("source", "od"))
    detectors = {dtype: load_detector(device="cpu", dtype=dtype) for dtype in ("float32", "bfloat16")}

    def predict(dtype: str, batch_size: int) -> Callable[[], object]:
        return lambda: detectors[dtype].predict(pictures, names, batch_size=batch_size)

    return {f"glyph-tiny {dtype}, batch {size}": predict(dtype, size) for dtype in detectors for size in (1, 4)}


def full_size(rounds: int, last: dict[str, float]) -> dict[str, float]:
    """Prints the table of one image of full size -> speed of each of ours relative to transformers."""
    runs = models()
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
            f"{agreements[name]['equal']:.0f}, {agreements[name]['alike']:.0f}",
            f"{agreements[name]['median_pixels']:.4f}, {agreements[name]['largest_pixels']:.4f}",
            f"{agreements[name]['score']:.1e}",
        )
        for name, cost in taken.items()
    ]
    heads = (
        "800 x 1066, three names", "CPU s", "wall s", "times the peer's speed",
        f"equal, alike of {BEST} best", "pixels: median, largest", "score: median",
    )  # fmt: skip
    print(table(heads, rows), flush=True)
    return ratios


def embedded(rounds: int, last: dict[str, float]) -> dict[str, float]:
    """Prints the table of the embedded model -> images per CPU second."""
    work = small_model()
    for run in work.values():
        run()
    speeds = {name: SCENES / cost.cpu for name, cost in costs(work, rounds).items()}
    print(table(("embedded model", "images a CPU s"), [(n, beside(v, last.get(n))) for n, v in speeds.items()]))
    return speeds


@torch.inference_mode()
def main() -> None:
    parser = arguments(__doc__, __file__, rounds=5)
    parser.add_argument("--parts", default="full,embedded", help="full, embedded or both (default %(default)s)")
    options = parser.parse_args()
    use_threads()
    last, new = last_ratios(__file__), {}
    for part, measure in (("full", full_size), ("embedded", embedded)):
        if part in options.parts.split(","):
            new |= measure(options.rounds, last)
    finish(__file__, last | new, options.keep)


if __name__ == "__main__":
    main()
