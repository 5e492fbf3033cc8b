"""The overhead of labelling over the model: 500 scenes with the embedded model, from image files to candidates on disk.

    OMP_NUM_THREADS=1 python benchmarks/labelling.py [--images 500] [--batch-sizes 1,4,8] [--rounds 3] [--full-size 4]
        [--dtype float32] [--keep]

The bare model gets the same pictures as decoded and normalised batches; its output is discarded. Reading is decoding,
resizing and normalising the files, one after another, which any program needs. Labelling is `plan` and `infer` in an
empty folder. They run in turns; median CPU seconds. The overhead is that of labelling over the bare model, and over the
bare model and reading.

--full-size N labels N JPEG files of 800 x 1066 pixels too, by Swin-T and BERT-base with random weights in bfloat16,
with all boxes above the floor, at batch 1.

Parts lists the CPU seconds of the steps of one labelling, by thread. Memory is that of a separate process that only
labels: its resident set (Linux, VmRSS), medians of each fifth of the run time, and the maximum.

The last numbers, from labelling.json, are printed beside the new ones; --keep writes the new ones there.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from peers import costs, use_threads
from PIL import Image
from results import arguments, beside, finish, last_ratios, table
from torch import nn

from flows.labelling import infer as inferring
from flows.labelling.bootstrap import bootstrap_od
from flows.labelling.infer import infer
from flows.labelling.plan import plan
from grounding_model import detector as detecting
from grounding_model import load_detector
from grounding_model.detector import Detector
from grounding_model.glyphs import categories_of, draw_scene, write_scenes
from grounding_model.inputs.image import read_resized
from grounding_model.inputs.image_batch import collate_images, normalise
from grounding_model.inputs.prompt import Prompt
from grounding_model.inputs.tokens import tokenize
from grounding_model.model.config import SWIN_T
from grounding_model.model.grounding import GroundingModel

NAMES = list(categories_of("source", "od"))


class Case(NamedTuple):
    """A folder of images and who labels them."""

    root: Path
    source: Path
    detector: Detector

    @property
    def paths(self) -> list[Path]:
        return sorted((self.root / "images").iterdir())

    def label(self, batch_size: int) -> None:
        with TemporaryDirectory(dir=self.root) as work_dir:
            planned = plan(self.source, self.root / "images", work_dir=work_dir)
            infer(planned, self.detector, batch_size=batch_size, progress=False)

    def read(self) -> None:
        for path in self.paths:
            normalise(read_resized(path, self.detector.model.config.image_scale).pixels)

    @torch.inference_mode()
    def bare(self, batches: list[Any]) -> None:
        model = self.detector.model
        [caption] = self.detector.captions(Prompt.categories(NAMES))
        text = model.encode_text(tokenize([caption], self.detector.tokenizer, model.config.max_text_tokens))
        for batch in batches:
            model.ground(model.encode_image(batch), text)


def scenes(root: Path, count: int, dtype: str) -> Case:
    write_scenes(root, "source", count, 0, labelled=False)
    source = bootstrap_od(root / "images", NAMES, root / "scenes_od.json").annotations
    return Case(root, source, load_detector(device="cpu", dtype=dtype))


def photos(root: Path, count: int) -> Case:
    """Scenes in the size of photos, and a model of full size, which finds something everywhere."""
    (root / "images").mkdir(parents=True)
    for index in range(count):
        picture = Image.fromarray(draw_scene("source", 0, index, "od")[0]).resize((1066, 800))
        picture.save(root / "images" / f"{index}.jpg", quality=90)
    torch.manual_seed(0)
    model = GroundingModel(SWIN_T)
    for head in model.classify:
        nn.init.zeros_(head.bias)
    source = bootstrap_od(root / "images", NAMES, root / "photos_od.json").annotations
    return Case(root, source, Detector(model, load_detector(device="cpu").tokenizer, "cpu", dtype="bfloat16"))


def row(
    name: str, case: Case, batch_size: int, rounds: int, last: dict[str, float], new: dict[str, float]
) -> list[str]:
    """Of the table; the ratios are added to `new`."""
    pictures = [read_resized(path, case.detector.model.config.image_scale).pixels for path in case.paths]
    batches = [collate_images(pictures[first : first + batch_size]) for first in range(0, len(pictures), batch_size)]
    case.bare(batches[:1])  # memory is fetched and the sampling loop built before anything counts
    work = {"bare": partial(case.bare, batches), "read": case.read, "label": partial(case.label, batch_size)}
    taken = {part: 1000 * cost.cpu / len(pictures) for part, cost in costs(work, rounds).items()}
    over = 100 * (taken["label"] / taken["bare"] - 1)
    new[f"{name}, overhead"], new[f"{name}, images a CPU s"] = over, 1000 / taken["label"]
    new[f"{name}, overhead beside reading"] = rest = 100 * (taken["label"] / (taken["bare"] + taken["read"]) - 1)
    shown = (beside(new[key], last.get(key)) for key in (f"{name}, images a CPU s", f"{name}, overhead"))
    times = [f"{taken[part]:.2f}" for part in ("bare", "read", "label")]
    return [name, *times, *shown, beside(rest, last.get(f"{name}, overhead beside reading"))]


def memory(entry: str) -> float:
    """MiB of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry)) / 1024


def watch(label: Callable[[], None]) -> list[float]:
    """MiB in each fifth of the time, and the most."""
    Path("/proc/self/clear_refs").write_text("5")
    seen: list[float] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            seen.append(memory("VmRSS"))

    watcher = threading.Thread(target=look)
    watcher.start()
    label()
    done.set()
    watcher.join()
    fifth = max(1, len(seen) // 5)
    return [median(seen[first : first + fifth]) for first in range(0, 5 * fifth, fifth)] + [memory("VmHWM")]


def memory_rows(options: Any, sizes: Sequence[int]) -> list[list[str]]:
    rows = []
    for size in sizes:
        command = [sys.executable, __file__, "--images", str(options.images), "--dtype", options.dtype]
        done = subprocess.run([*command, "--memory", str(size)], capture_output=True, text=True, check=True)
        rows.append([str(size), *done.stdout.split()[-6:]])
    return rows


def timed(function: Callable[..., Any], seconds: Counter[str], name: str) -> Callable[..., Any]:
    """The same function, whose CPU seconds of the calling thread are added up."""

    def run(*arguments: Any, **named: Any) -> Any:
        began = time.thread_time()
        try:
            return function(*arguments, **named)
        finally:
            seconds[name] += time.thread_time() - began

    return run


def measured_functions(model: Any) -> list[tuple[Any, str]]:
    """(module, class or object, name) of what a labelling calls for every batch."""
    return [
        (detecting, "read_for_model"), (model, "encode_image"), (model, "ground"),
        (detecting._Labeller, "_detections"), (detecting._Labeller, "_records"), (detecting, "collate_pixels"),
        (inferring, "_candidates"), (inferring, "write_candidates"), (inferring, "current_states"),
        (inferring, "write_states"), (inferring, "missing_shards"), (inferring, "check_usable"),
    ]  # fmt: skip


def parts(case: Case) -> str:
    """CPU milliseconds an image of one labelling, four images at once."""
    seconds: Counter[str] = Counter()
    for owner, name in measured_functions(case.detector.model):
        setattr(owner, name, timed(getattr(owner, name), seconds, name.strip("_")))
    began = time.process_time()
    case.label(4)
    whole = time.process_time() - began
    seconds["the rest"] = whole - sum(seconds.values())
    count = len(case.paths)
    return ", ".join(f"{name} {1000 * value / count:.3f}" for name, value in seconds.most_common())


def main() -> None:
    parser = arguments(__doc__, __file__, rounds=3)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--batch-sizes", default="1,4,8")
    parser.add_argument("--full-size", type=int, default=0, metavar="N")
    parser.add_argument("--dtype", default="float32", help="of the embedded model (default %(default)s)")
    parser.add_argument("--memory", type=int, metavar="BATCH", help="only label, and print what the process holds")
    options = parser.parse_args()
    use_threads()
    last, new = last_ratios(__file__), {}
    with TemporaryDirectory() as folder:
        root = Path(folder)
        case = scenes(root, options.images, options.dtype)
        if options.memory:
            print(*(f"{held:.0f}" for held in watch(partial(case.label, options.memory))))
            return
        case.label(4)
        sizes = [int(size) for size in options.batch_sizes.split(",")]
        rows = [row(f"{options.dtype}, batch {size}", case, size, options.rounds, last, new) for size in sizes]
        if options.full_size:
            full = photos(root / "photos", options.full_size)
            rows.append(row("Swin-T, 800 x 1066, bfloat16, batch 1", full, 1, 1, last, new))
            del full
        heads = (
            "", "bare model, CPU ms an image", "reading", "labelling", "images a CPU s", "overhead, %",
            "overhead beside reading, %",
        )  # fmt: skip
        print(table(heads, rows), flush=True)
        print(f"parts, CPU ms an image: {parts(case)}", flush=True)
        heads = ("images at once", *(f"MiB, fifth {part}" for part in range(1, 6)), "most")
        print(table(heads, memory_rows(options, sizes)))
    finish(__file__, last | new, options.keep)


if __name__ == "__main__":
    main()
