"""What labelling costs beyond the model: 500 scenes by the embedded model, from image files to candidates on disk.

    OMP_NUM_THREADS=1 python benchmarks/labelling.py [--images 500] [--batch-sizes 1,2,4,8,16] [--rounds 3] [--keep]

The bare model gets the same pictures, decoded, normalised and in batches; its answers are thrown away. Labelling is
`plan` and `infer` in a fresh folder. They take turns; CPU seconds, medians. Parts says where the CPU seconds of one
labelling go: of decoding and resizing, and of reading the written shards again, which makes sure of them.
Memory is the most that the process had during a labelling (Linux, VmHWM).

The last numbers, from labelling.json, are printed beside the new ones; --keep writes the new ones there.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from contest import arguments, beside, costs, finish, last_ratios, table, use_threads

from flows.labelling import infer as inferring
from flows.labelling.bootstrap import bootstrap_od
from flows.labelling.infer import infer
from flows.labelling.plan import plan
from grounding_model import detector as detecting
from grounding_model import load_detector
from grounding_model.detector import Detector
from grounding_model.glyphs import categories_of, write_scenes
from grounding_model.inputs.image import read_resized
from grounding_model.inputs.image_batch import collate_images
from grounding_model.inputs.prompt import Prompt
from grounding_model.inputs.tokens import tokenize


@torch.inference_mode()
def bare(detector: Detector, batches: list[Any], caption: str) -> None:
    model = detector.model
    text = model.encode_text(tokenize([caption], detector.tokenizer, model.config.max_text_tokens))
    for batch in batches:
        model.ground(model.encode_image(batch), text)


def peak_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def timed(function: Callable[..., Any], seconds: Counter[str], name: str) -> Callable[..., Any]:
    """The same function, whose CPU seconds of the calling thread are added up."""

    def run(*arguments: Any, **named: Any) -> Any:
        began = time.thread_time()
        try:
            return function(*arguments, **named)
        finally:
            seconds[name] += time.thread_time() - began

    return run


def main() -> None:
    parser = arguments(__doc__, __file__, rounds=3)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--batch-sizes", default="1,2,4,8,16")
    options = parser.parse_args()
    use_threads()
    last, new = last_ratios(__file__), {}
    with TemporaryDirectory() as folder:
        root = Path(folder)
        write_scenes(root, "source", options.images, 0, labelled=False)
        names = list(categories_of("source", "od"))
        source = bootstrap_od(root / "images", names, root / "scenes_od.json").annotations
        detector = load_detector(device="cpu")
        [caption] = detector.captions(Prompt.categories(names))
        paths = sorted((root / "images").iterdir())
        pictures = [read_resized(path, detector.model.config.image_scale).pixels for path in paths]

        def label(batch_size: int) -> None:
            with TemporaryDirectory(dir=root) as work_dir:
                infer(plan(source, root / "images", work_dir=work_dir), detector, batch_size=batch_size, progress=False)

        heads = ("images at once", "bare model, images a CPU s", "labelling, images a CPU s", "overhead, %")
        rows = []
        label(4)
        for size in map(int, options.batch_sizes.split(",")):
            batches = [collate_images(pictures[first : first + size]) for first in range(0, len(pictures), size)]
            work = {"bare": partial(bare, detector, batches, caption), "labelling": partial(label, size)}
            taken = {name: cost.cpu for name, cost in costs(work, options.rounds).items()}
            overhead = 100 * (taken["labelling"] / taken["bare"] - 1)
            new[f"overhead, batch {size}"] = overhead
            new[f"labelling, batch {size}"] = speed = options.images / taken["labelling"]
            shown = beside(speed, last.get(f"labelling, batch {size}"))
            rows.append((str(size), f"{options.images / taken['bare']:.1f}", shown, f"{overhead:.1f}"))
        print(table(heads, rows), flush=True)

        seconds: Counter[str] = Counter()
        detecting.read_resized = timed(read_resized, seconds, "decode and resize")  # type: ignore[assignment]
        inferring.missing_shards = timed(inferring.missing_shards, seconds, "look for shards")  # type: ignore[assignment]
        inferring.check_usable = timed(inferring.check_usable, seconds, "read shards again")  # type: ignore[assignment]
        inferring.write_candidates = timed(inferring.write_candidates, seconds, "write candidates")  # type: ignore[assignment]
        Path("/proc/self/clear_refs").write_text("5")
        label(4)
        print(", ".join(f"{name} {value:.3f} s" for name, value in seconds.items()))
        print(f"peak memory of a labelling of {options.images} images: {peak_mib():.0f} MiB")
    finish(__file__, last | new, options.keep)


if __name__ == "__main__":
    main()
