"""Code shared by the benchmarks: transformers' model with the same weights as ours, measuring in turns, tables.

Weights are random, including offsets, layer scales and heads: their usual initial values are so small or equal that
errors in what they multiply would not be noticed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from transformers import MMGroundingDinoConfig, MMGroundingDinoForObjectDetection

from grounding_model import load_detector
from grounding_model.checkpoints.checkpoint import Checkpoint
from grounding_model.checkpoints.huggingface import save_tokenizer
from grounding_model.checkpoints.weights import load_checkpoint
from grounding_model.inputs.tokens import SEPARATORS

PEER = "transformers float32"


class Cost(NamedTuple):
    """The cost of one run, in seconds. cpu: user and system time of all threads; hardly depends on the load."""

    cpu: float
    wall: float


@torch.no_grad()
def drawn_peer(config: MMGroundingDinoConfig | None = None) -> MMGroundingDinoForObjectDetection:
    """transformers' model with random weights, Swin-T and BERT-base by default.

    All content queries are equal, because some of the thousands of proposals have scores equal within rounding errors,
    and their order is arbitrary.
    """
    torch.manual_seed(5)
    peer = MMGroundingDinoForObjectDetection(config or MMGroundingDinoConfig())
    for name, parameter in peer.named_parameters():
        is_matrix = parameter.dim() > 1 or "embed" in name
        parameter.add_(torch.randn_like(parameter) * (0.02 if is_matrix else 0.1))
    embeddings = peer.model.query_position_embeddings.weight
    embeddings[:] = embeddings[0].clone()
    return peer.eval()


def same_in_ours(peer: MMGroundingDinoForObjectDetection) -> Checkpoint:
    """Our model with the peer's weights, and the embedded model's tokenizer, whose separators are set in the peer."""
    with TemporaryDirectory() as folder:
        peer.save_pretrained(folder)
        save_tokenizer(folder, load_detector("glyph-tiny", device="cpu").tokenizer)
        ours = load_checkpoint(folder)
    # transformers has the separators' numbers of BERT's own vocabulary; this vocabulary is smaller.
    peer.model.special_tokens = torch.tensor([ours.tokenizer.id_of(token) for token in SEPARATORS])
    ours.model.eval()
    return ours


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def costs(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Cost]:
    """Median costs of models that run in turns. Each should have run once before."""
    taken: dict[str, list[Cost]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, run in work.items():
            cpu, wall = cpu_seconds(), time.perf_counter()
            run()
            taken[name].append(Cost(cpu_seconds() - cpu, time.perf_counter() - wall))
    return {name: Cost(*(median(column) for column in zip(*turns))) for name, turns in taken.items()}


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *rows))


def beside(new: float, last: float | None) -> str:
    return f"{new:.2f}" if last is None else f"{new:.2f} (last: {last:.2f})"


def arguments(document: str | None, script: str, rounds: int) -> argparse.ArgumentParser:
    """The options common to all benchmarks. document: docstring of the script. script: its __file__."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=rounds, help="number of measurements of each model (default %(default)s)"
    )
    kept = Path(script).with_suffix(".json").name
    parser.add_argument("--keep", action="store_true", help=f"write the new ratios into {kept}")
    return parser


def use_threads() -> None:
    """Uses OMP_NUM_THREADS threads, or one if it is not set."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def last_ratios(script: str) -> dict[str, float]:
    kept = Path(script).with_suffix(".json")
    return json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}


def finish(script: str, new: Mapping[str, float], keep: bool) -> None:
    """Prints the load of the machine; stores the new ratios beside the script if `keep` is set."""
    print(f"load of the machine meanwhile: {os.getloadavg()[1]:.1f} processes on {os.cpu_count()} cores")
    if keep:
        rounded = {name: round(value, 3) for name, value in new.items()}
        Path(script).with_suffix(".json").write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
