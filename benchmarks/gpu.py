"""Speed and memory of the model on a GPU, compared with transformers, in under ten minutes.

    python benchmarks/gpu.py [--minutes 9] [--batches 1,2,4,8,16,32] [--keep]
    python benchmarks/gpu.py --dry         # the same code on a CPU with a tiny model, as a test; a minute

Prints, with the card's name, what takes least time first, each line as soon as it is known:
- the tests that need a GPU: pytest -m gpu;
- how often one forward waits for the device (torch.cuda.set_sync_debug_mode), which should be never;
- images a second of labelling, from JPEG files to records;
- a training step: forward, losses, backward;
- one all-reduce by NCCL with one process;
- with the rest of the minutes images a second of transformers and ours (Swin-T, BERT-base, 800 x 1333, weights drawn:
  peers.py), in float32, TF32 and bfloat16 (ours by its own layers, also with its kernels and with CUDA graphs;
  transformers by torch.autocast, also compiled by torch.compile), for every batch size that fits; peak memory beyond
  the weights; agreement with transformers in float32; and the share of the roofline, which is what a product of large
  square matrices in the same format reaches here.
A failure becomes a row with the reason. Nothing new is started after the given minutes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import cv2
import numpy as np
import torch
from peers import drawn_peer, same_in_ours
from results import finish, last_ratios, table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, MMGroundingDinoConfig, SwinConfig

from grounding_model.checkpoints.checkpoint import Checkpoint
from grounding_model.detector import Detector, fast_forward
from grounding_model.inputs.image_batch import ImageBatch
from grounding_model.inputs.tokens import TextBatch, tokenize
from grounding_model.model.grounding import GroundingModel
from grounding_model.model.kernels.cuda_graphs import ReplayedModel
from grounding_model.model.precision import float32_products, use_bfloat16
from grounding_model.model.targets import Target
from grounding_model.training.losses import grounding_losses

CAPTION = "red cat. blue star. dog. "
RUNS, WARM = 10, 3  # of each model and batch size; graphs are recorded in the second
LONGEST = 4.0  # seconds for the runs of one, but for the first three
BEST = 100
COMPILED = "transformers bfloat16, compiled"
COMPILING = 150  # seconds that must be left before it is begun: nothing interrupts a compiler
TESTING = 180  # seconds for the tests
HEADS = ("forward", "images at once", "images/s", "GiB", "of the roofline", "equal to transformers float32")
ROOT = Path(__file__).parent.parent


class Bench(NamedTuple):
    device: torch.device
    size: tuple[int, int]
    batches: tuple[int, ...]
    ends: float  # of time.monotonic
    dry: bool

    @property
    def over(self) -> bool:
        return time.monotonic() > self.ends


class Run(NamedTuple):
    seconds: float
    gib: float


class BenchedModel(NamedTuple):
    """run: the scores (B, Q) of the best token and the boxes of a batch. dtype: what its roofline is measured in."""

    run: Callable[[ImageBatch, TextBatch], tuple[Tensor, Tensor]]
    around: Callable[[], AbstractContextManager]
    dtype: torch.dtype


def tiny_config() -> MMGroundingDinoConfig:
    """The small model of a dry run."""
    return MMGroundingDinoConfig(
        backbone_config=SwinConfig(embed_dim=24, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8], out_indices=[2, 3, 4]),
        text_config=BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96),
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        num_queries=20,
    )


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(run: Callable[[], object], bench: Bench) -> Run:
    """Median seconds of a run, the device waited for, and the most memory that it took beyond what was held before."""
    held = 0
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()  # a failed run's, which graphs could not use
        torch.cuda.reset_peak_memory_stats(bench.device)
        held = torch.cuda.memory_allocated(bench.device)
    for _ in range(1 if bench.dry else WARM):
        run()
    wait(bench.device)
    seconds: list[float] = []
    for _ in range(1 if bench.dry else RUNS):
        if len(seconds) >= WARM and sum(seconds) > LONGEST:
            break
        began = time.perf_counter()
        run()
        wait(bench.device)
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated(bench.device) if bench.device.type == "cuda" else 0
    return Run(median(seconds), max(0, peak - held) / 2**30)


def models(peer: nn.Module, ours: GroundingModel, bench: Bench) -> dict[str, BenchedModel]:
    """By name, what is asked first before the rest: minutes may end."""
    rounded = deepcopy(ours)
    use_bfloat16(rounded)
    fused, fused_full = deepcopy(rounded), deepcopy(ours)

    def of_peer(model: nn.Module) -> Callable[[ImageBatch, TextBatch], tuple[Tensor, Tensor]]:
        def run(images: ImageBatch, text: TextBatch) -> tuple[Tensor, Tensor]:
            types, mask = torch.zeros_like(text.input_ids), text.token_mask.long()
            found = model(
                pixel_values=images.pixels, input_ids=text.input_ids, attention_mask=mask, token_type_ids=types
            )
            return found.logits[..., : text.input_ids.shape[1]].sigmoid().amax(-1), found.pred_boxes

        return run

    def of_ours(model: nn.Module | ReplayedModel) -> Callable[[ImageBatch, TextBatch], tuple[Tensor, Tensor]]:
        def run(images: ImageBatch, text: TextBatch) -> tuple[Tensor, Tensor]:
            found = model(images, text)
            return found.logits[-1].sigmoid().amax(-1), found.boxes[-1]

        return run

    def exactly() -> AbstractContextManager:
        return float32_products("float32", bench.device)

    def tf32() -> AbstractContextManager:
        return float32_products("bfloat16", bench.device)

    @contextmanager
    def rounding() -> Iterator[None]:
        with tf32(), torch.autocast(bench.device.type, torch.bfloat16):
            yield

    full, half = torch.float32, torch.bfloat16
    made = {
        "transformers bfloat16": BenchedModel(of_peer(peer), rounding, half),
        "ours bfloat16": BenchedModel(of_ours(rounded), tf32, half),
        "transformers float32": BenchedModel(of_peer(peer), exactly, full),
        "ours float32": BenchedModel(of_ours(ours), exactly, full),
        "transformers TF32": BenchedModel(of_peer(peer), tf32, full),
        "ours TF32": BenchedModel(of_ours(ours), tf32, full),
    }
    if not bench.dry:
        from grounding_model.model.kernels.choice import use_kernels

        use_kernels(fused)
        use_kernels(fused_full)
        replayed = ReplayedModel(fused)
        first = {
            "ours bfloat16, kernels, graphs": BenchedModel(of_ours(replayed), tf32, half),
            "ours bfloat16, kernels": BenchedModel(of_ours(fused), tf32, half),
        }
        made = first | made
        made["ours float32, kernels"] = BenchedModel(of_ours(fused_full), exactly, full)
        made["ours TF32, kernels"] = BenchedModel(of_ours(fused_full), tf32, full)
        made[COMPILED] = BenchedModel(of_peer(torch.compile(peer)), rounding, half)
    return made


def inputs(count: int, tokenizer, bench: Bench) -> tuple[ImageBatch, TextBatch]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(count, 3, *bench.size, generator=generator)
    images = ImageBatch(pixels, torch.tensor([bench.size] * count)).to(bench.device)
    return images, tokenize([CAPTION] * count, tokenizer).to(bench.device)


def roofline(dtype: torch.dtype, bench: Bench) -> float:
    """Operations per second of a large product of square matrices."""
    side = 256 if bench.dry else 8192
    matrix = torch.randn(side, side, device=bench.device, dtype=dtype)
    return 2 * side**3 / measure(lambda: matrix @ matrix, bench).seconds


def operations_of_an_image(ours: GroundingModel, tokenizer, bench: Bench) -> int:
    """Operations of our forward pass; the peer needs more for the same result."""
    with torch.inference_mode(False), torch.enable_grad(), FlopCounterMode(display=False) as counter:
        ours(*inputs(1, tokenizer, bench))
    return counter.get_total_flops()


def equal_boxes(expected: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor]) -> str:
    """How many of the best boxes of the first image have one within a thousandth of the image and of the score."""
    scores, boxes = expected[0][0].float(), expected[1][0].float()
    best = scores.topk(min(BEST, len(scores))).indices
    near = torch.cdist(boxes[best], found[1][0].float(), p=torch.inf) <= 1e-3
    alike = (scores[best, None] - found[0][0].float()).abs() <= 1e-3
    return f"{int((near & alike).any(1).sum())} of {len(best)}"


@torch.inference_mode()
def forward_table(peer: nn.Module, ours: GroundingModel, tokenizer, bench: Bench) -> dict[str, float]:
    """Prints it row by row -> images a second by model and batch size."""
    runs = models(peer, ours, bench)
    one = inputs(1, tokenizer, bench)
    operations = operations_of_an_image(ours, tokenizer, bench)
    with runs["transformers float32"].around():
        expected = runs["transformers float32"].run(*one)
    speeds = {}
    print(table(HEADS, []), flush=True)

    def row(*cells: str) -> None:
        print("| " + " | ".join(cells + ("",) * (len(HEADS) - len(cells))) + " |", flush=True)

    for name, benched in runs.items():
        peak = 0.0
        for batch in bench.batches:
            if time.monotonic() + (COMPILING if name == COMPILED else 0) > bench.ends:
                row(name, str(batch), "no time left")
                continue
            try:
                with benched.around():
                    peak = peak or roofline(benched.dtype, bench)
                    case = inputs(batch, tokenizer, bench)
                    agreement = equal_boxes(expected, benched.run(*one)) if batch == 1 else ""
                    cost = measure(lambda benched=benched, case=case: benched.run(*case), bench)
            except Exception as error:  # such as out of memory, or an error of a compiler: the next one may work
                row(name, str(batch), (str(error).strip().splitlines() or [type(error).__name__])[0][:60])
                continue
            speeds[f"{name}, batch {batch}"] = speed = batch / cost.seconds
            share = speed * operations / peak
            row(name, str(batch), f"{speed:.2f}", f"{cost.gib:.1f}", f"{share:.0%}", agreement)
    return speeds


@torch.inference_mode()
def count_waits(model: GroundingModel | ReplayedModel, name: str, tokenizer, bench: Bench) -> str:
    if bench.device.type != "cuda":
        return "waits for the device: not counted on a CPU"
    case = inputs(2, tokenizer, bench)
    for _ in range(3):  # constants of this size are copied to the device once, a graph is recorded once
        model(*case)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model(*case)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = sorted({str(each.filename) + f":{each.lineno}" for each in caught if "synchroniz" in str(each.message)})
    return f"waits for the device in one forward, {name}: {len(waits)} {waits}"


def labelling(checkpoint: Checkpoint, bench: Bench) -> str:
    """Speed of labelling, from image files to records: decoding, resizing, the model, selection."""
    count, batch = (4, 2) if bench.dry else (320, 8)
    picture = (np.random.default_rng(0).random((30, 50, 3)) * 255).astype(np.uint8)
    picture = cv2.resize(picture, bench.size[::-1], interpolation=cv2.INTER_CUBIC)
    detector = Detector(deepcopy(checkpoint.model), checkpoint.tokenizer, bench.device, dtype="bfloat16")
    with TemporaryDirectory() as folder:
        files = [f"{folder}/{index}.jpg" for index in range(count)]
        for file in files:
            cv2.imwrite(file, picture)
        names = ["red cat", "blue star", "dog"]
        detector.predict(files[: 4 * batch], names, batch_size=batch, scale=bench.size)
        began = time.perf_counter()
        detector.predict(files, names, batch_size=batch, scale=bench.size)
        seconds = time.perf_counter() - began
    return (
        f"labelling {count} files of {bench.size[1]} x {bench.size[0]} at batch {batch}: {count / seconds:.1f} images/s"
    )


def training_step(ours: GroundingModel, tokenizer, bench: Bench) -> str:
    model = deepcopy(ours).train()
    images, text = inputs(2, tokenizer, bench)
    tokens = torch.zeros(2, text.input_ids.shape[1], dtype=torch.bool)
    tokens[0, 1:3], tokens[1, 4:6] = True, True
    boxes = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.6, 0.6, 0.3, 0.2]])
    target = Target(boxes, tokens, torch.arange(2), torch.ones(2), torch.zeros(2).bool(), bench.size).to(bench.device)

    def step() -> None:
        model.zero_grad()
        with torch.autocast(bench.device.type, torch.bfloat16):
            found = model(images, text, [target, target])
        torch.stack(list(grounding_losses(found, [target, target]).values())).sum().backward()

    cost = measure(step, bench)
    return f"training step, batch 2, bfloat16: {cost.seconds:.3f} s, {cost.gib:.1f} GiB"


def all_reduce(bench: Bench) -> str:
    backend = "nccl" if bench.device.type == "cuda" else "gloo"
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29541")
    torch.distributed.init_process_group(backend, rank=0, world_size=1)
    try:
        values = torch.ones(1 << 20, device=bench.device)
        torch.distributed.all_reduce(values)
        return f"{backend} all-reduce with one process: {'right' if bool((values == 1).all()) else 'WRONG'}"
    finally:
        torch.distributed.destroy_process_group()


def gpu_tests(bench: Bench) -> str:
    if bench.dry:
        return "pytest -m gpu: left out of a dry run"
    files = [str(path) for path in sorted(ROOT.glob("tests/test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rA", "-p", "no:cacheprovider", *files]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TESTING)
    except subprocess.TimeoutExpired:
        return f"pytest -m gpu: not done in {TESTING} s"
    lines = (done.stdout + done.stderr).strip().splitlines()
    told = [line for line in lines if line.startswith(("PASSED", "FAILED", "ERROR", "SKIPPED", "E  "))]
    return "\n".join([f"pytest -m gpu: exit code {done.returncode}", *told, *lines[-1:]])


def attempt(name: str, work: Callable[[], str]) -> None:
    try:
        print(work(), flush=True)
    except Exception as error:
        print(f"{name} failed: {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}", flush=True)
        traceback.print_exc()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--batches", default="1,2,4,8,16,32")
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write the new ratios into gpu.json")
    options = parser.parse_args()
    if not options.dry and not torch.cuda.is_available():
        sys.exit("no GPU here; --dry runs the same paths on a CPU")
    device = torch.device("cpu" if options.dry else "cuda")
    batches = (1, 2) if options.dry else tuple(int(each) for each in options.batches.split(","))
    size = (192, 256) if options.dry else (800, 1333)
    bench = Bench(device, size, batches, time.monotonic() + 60 * options.minutes, options.dry)
    print(
        "a CPU, dry run" if options.dry else torch.cuda.get_device_name(device),
        f"torch {torch.__version__}",
        flush=True,
    )
    attempt("tests", lambda: gpu_tests(bench))
    peer = drawn_peer(tiny_config() if options.dry else None)
    checkpoint = same_in_ours(peer)
    peer, ours = peer.to(device), checkpoint.model.to(device)
    tokenizer = checkpoint.tokenizer
    attempt("counting waits", lambda: count_waits(ours, "plain layers", tokenizer, bench))
    if not options.dry:
        fast = fast_forward(deepcopy(ours))
        attempt("counting waits", lambda: count_waits(fast, "kernels and graphs", tokenizer, bench))
        del fast
    attempt("labelling", lambda: labelling(checkpoint, bench))
    attempt("training step", lambda: training_step(ours, tokenizer, bench))
    attempt("all-reduce", lambda: all_reduce(bench))
    new = forward_table(peer, ours, tokenizer, bench)
    last = last_ratios(__file__)
    for batch in batches:
        for ours_kind, kind in (("float32",) * 2, ("bfloat16",) * 2, ("bfloat16, kernels, graphs", "bfloat16")):
            pair = [new.get(f"ours {ours_kind}, batch {batch}"), new.get(f"transformers {kind}, batch {batch}")]
            if pair[0] and pair[1]:
                key = f"{ours_kind}, batch {batch}"
                new[key] = pair[0] / pair[1]
                print(f"ours / transformers, {key}: {new[key]:.2f}", f"(last: {last[key]:.2f})" if key in last else "")
    finish(__file__, last | new, options.keep and not options.dry)


if __name__ == "__main__":
    main()
