"""The time saved by sharing image features between captions of one image: `python benchmarks/captions_per_image.py`.

Glyph scenes with several captions each are processed in two orders: image by image, so that consecutive captions share
their image's features, and caption by caption, so that no two consecutive ones have the same image. The inputs are the
same, in one process, alternating; seconds are CPU time. `--swin-t` takes the published architecture with random weights
instead of glyph-tiny, to measure time only.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from grounding_model.detector import Detector, load_detector
from grounding_model.glyphs import draw_scene
from grounding_model.inputs.prompt import Prompt
from grounding_model.model.config import SWIN_T
from grounding_model.model.grounding import GroundingModel

Question = tuple[Path, Prompt]


def main() -> None:
    """Alternates between both orders and prints the seconds of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=40, metavar="N")
    parser.add_argument("--captions", type=int, default=5, metavar="N", help="an image (default 5, as in Flickr30k)")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N")
    parser.add_argument("--turns", type=int, default=2, metavar="N")
    parser.add_argument("--scale", type=int, nargs=2, metavar=("SHORT", "LONG"), help="the model's own by default")
    parser.add_argument("--swin-t", action="store_true", help="Swin-T with random weights")
    options = parser.parse_args()
    torch.manual_seed(0)
    detector = load_detector(device="cpu")
    if options.swin_t:
        detector = Detector(GroundingModel(SWIN_T), detector.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        together = questions(Path(folder), options.images, options.captions)
        apart = [question for start in range(options.captions) for question in together[start :: options.captions]]
        seconds = {"image after image": 0.0, "caption after caption": 0.0}
        for _ in range(options.turns):
            for name, asked in zip(seconds, (together, apart)):
                seconds[name] += ask(detector, asked, options.batch_size, options.scale) / options.turns
    for name, value in seconds.items():
        print(f"{name:<22} {value:7.2f} s, {1000 * value / len(together):6.1f} ms a caption")
    print(f"shared features take {seconds['image after image'] / seconds['caption after caption']:.2f} of the time")


def questions(folder: Path, images: int, captions: int) -> list[Question]:
    """Scenes as files, and of each the captions of it and of the scenes after it."""
    scenes = [draw_scene("source", 0, index, "captions") for index in range(images)]
    asked = []
    for index, (pixels, record) in enumerate(scenes):
        path = folder / record.filename
        Image.fromarray(pixels).save(path)
        for number in range(captions):
            caption = scenes[(index + number) % images][1]
            spans = [region.spans for region in caption.regions or ()]
            asked.append((path, Prompt.phrases(caption.caption or "", spans)))
    return asked


def ask(detector: Detector, asked: list[Question], batch_size: int, scale: list[int] | None) -> float:
    """Processes the captions; returns the CPU seconds."""
    images, prompts = zip(*asked)
    start = time.process_time()
    size = None if scale is None else (scale[0], scale[1])
    for _ in detector.predict_each(images, prompts, batch_size=batch_size, scale=size):
        pass
    return time.process_time() - start


if __name__ == "__main__":
    main()
