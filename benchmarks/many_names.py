"""Seconds for one image with 1,203 names, as many as in LVIS, in chunks, compared with transformers.

    OMP_NUM_THREADS=1 python benchmarks/many_names.py [--size 800,1066] [--names 1203] [--chunks 1] [--dtypes bfloat16]
        [--keep]

The same weights (Swin-T, BERT-base; see peers.py). The names are random words of the tokenizer's vocabulary, two to
a name. The peer runs completely for each chunk of names, and takes the same time for each: it is measured on the first
--chunks of them and extrapolated. Ours is `predict` with the whole list: features of the image are computed once for
all chunks. "first image" also computes the features of the texts, which a run over many images does once; "further
image" finds them in the cache.

The last ratios, from many_names.json, are printed beside the new ones; --keep writes the new ones there.
"""

from __future__ import annotations

import random
from copy import deepcopy
from functools import partial

import numpy as np
import torch
from peers import PEER, costs, drawn_peer, same_in_ours, use_threads
from results import arguments, beside, finish, last_ratios, table

from grounding_model.detector import Detector
from grounding_model.inputs.image_batch import collate_images
from grounding_model.inputs.prompt import Prompt
from grounding_model.inputs.tokens import tokenize


def drawn_names(detector: Detector, count: int) -> list[str]:
    words = sorted(word for word in detector.tokenizer.get_vocab() if word.isalpha() and len(word) > 2)
    chooser = random.Random(0)
    names: set[str] = set()
    while len(names) < count:
        names.add(" ".join(chooser.sample(words, 2)))
    return sorted(names)


@torch.inference_mode()
def main() -> None:
    parser = arguments(__doc__, __file__, rounds=1)
    parser.add_argument("--size", default="800,1066", help="height, width in pixels (default %(default)s)")
    parser.add_argument("--names", type=int, default=1203)
    parser.add_argument("--chunks", type=int, default=1, help="chunks that the peer is measured on")
    parser.add_argument("--dtypes", default="float32,bfloat16", help="number formats of ours (default %(default)s)")
    options = parser.parse_args()
    use_threads()
    height, width = (int(side) for side in options.size.split(","))
    peer = drawn_peer()
    ours = same_in_ours(peer)
    detectors = {
        f"ours {dtype}": Detector(deepcopy(ours.model), ours.tokenizer, "cpu", dtype=dtype)
        for dtype in options.dtypes.split(",")
    }
    one = next(iter(detectors.values()))
    names = drawn_names(one, options.names)
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    chunks = one.captions(Prompt.categories(names))
    pixels, texts = collate_images([picture]).pixels, [tokenize([caption], one.tokenizer) for caption in chunks]

    def of_peer() -> None:
        for text in texts[: options.chunks]:
            types, mask = torch.zeros_like(text.input_ids), text.token_mask.long()
            peer(pixel_values=pixels, input_ids=text.input_ids, attention_mask=mask, token_type_ids=types)

    def of_ours(detector: Detector, first: bool) -> None:
        if first:
            detector.text_cache().clear()
        detector.predict([picture], names, scale=(height, max(height, width)))

    work = {PEER: of_peer}
    for name, detector in detectors.items():
        detector.predict([picture], names[:1], scale=(64, 64))
        work[f"{name}, first image"] = partial(of_ours, detector, True)
        work[f"{name}, further image"] = partial(of_ours, detector, False)
    taken = costs(work, options.rounds)
    whole = taken[PEER].cpu / min(options.chunks, len(texts)) * len(texts)
    seconds = {name: whole if name == PEER else cost.cpu for name, cost in taken.items()}
    case = f"{options.names} names, {height} x {width}"
    last, ratios = last_ratios(__file__), {f"{name}, {case}": whole / taken_by for name, taken_by in seconds.items()}
    rows = [
        (name, f"{taken_by:.1f}", beside(ratios[f"{name}, {case}"], last.get(f"{name}, {case}")))
        for name, taken_by in seconds.items()
    ]
    print(table((f"{case}, {len(texts)} chunks", "CPU s", "times the peer's speed"), rows), flush=True)
    finish(__file__, last | ratios, options.keep)


if __name__ == "__main__":
    main()
