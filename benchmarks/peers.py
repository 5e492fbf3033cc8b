"""What the benchmarks share: the peer with the same weights as ours, costs of functions that run by turns.

Weights are random, including offsets, layer scales and heads: their usual initial values are so small or equal that
errors in what they multiply would not be noticed.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Mapping
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


def use_threads() -> None:
    """Uses OMP_NUM_THREADS threads, or one if it is not set."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
