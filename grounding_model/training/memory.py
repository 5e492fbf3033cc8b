"""An estimate of the memory of a training step, before the first step runs.

The step runs on fake tensors, which have shapes but no data (torch's FakeTensorMode): every storage that the forward
and backward passes would allocate is counted during its lifetime, and nothing is computed or allocated. Not included:
PyTorch itself (half a GiB a process), workspaces of kernels, and fragmentation of the allocator.
benchmarks/training_memory.py measures the error.

B images of a batch, H W canvas in pixels, L text tokens, Q queries, N denoising queries
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from formats.io.errors import InputError
from formats.io.plurals import many
from grounding_model.checkpoints.locations import locate
from grounding_model.checkpoints.weights import read_weights
from grounding_model.data.augment import AugmentConfig
from grounding_model.detector import choose_device
from grounding_model.inputs.image_batch import ImageBatch
from grounding_model.inputs.tokens import TextBatch
from grounding_model.model.activation_checkpointing import set_recompute
from grounding_model.model.config import ModelConfig
from grounding_model.model.denoising import DenoisingQueries, attention_block
from grounding_model.model.grounding import GroundingModel
from grounding_model.model.kernels.compiled_gather import sample_compiled
from grounding_model.model.targets import Matching
from grounding_model.training.config import FromStudent, FromWeights, Precision, TrainConfig
from grounding_model.training.losses import finite_logits, focal_loss
from grounding_model.training.optimizer import freeze
from grounding_model.training.settings import LossSettings
from grounding_model.training.state import AUTOCAST

MAX_BOXES = 100  # an image, in the batch of the estimate
GIB = 2**30


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device. image_size: height, width of the canvas.

    gradients: counted all the time; with accumulate 1 a step has none while activations peak, and needs up to this much
    less.
    activations: the peak of forward and backward pass, without gradients, for the whole batch.
    """

    weights: int
    gradients: int
    optimizer: int  # AdamW's two moments
    average: int  # the moving average of the weights
    activations: int
    batch_size: int
    image_size: tuple[int, int]
    precision: Precision
    recompute: bool

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.average + self.activations

    def largest_batch(self, free: int) -> int:
        """The maximum number of images a forward pass that fit into `free` bytes; 0 if not even one does."""
        images = (free - (self.total - self.activations)) * self.batch_size // max(self.activations, 1)
        return max(int(images), 0)

    def table(self) -> str:
        """A human-readable table with one line per part."""
        height, width = self.image_size
        recomputed = ", activations recomputed" if self.recompute else ""
        parts = ("weights", "gradients", "optimizer", "average", "activations", "total")
        lines = [f"{name:<11}  {getattr(self, name) / GIB:8.2f} GiB" for name in parts]
        return "\n".join(
            [f"{many(self.batch_size, 'image')} of {width} x {height} pixels, {self.precision}{recomputed}", *lines]
        )


def estimate_memory(
    model: GroundingModel,
    batch_size: int,
    image_size: tuple[int, int],
    tokens: int,
    boxes: int = MAX_BOXES,
    precision: Precision = "float32",
    recompute: bool = False,
    moving_average: bool = False,
) -> MemoryEstimate:
    """The memory of one step with this batch.

    model: parameters without requires_grad count as frozen; it is neither changed nor run and may be on any device,
    including meta. image_size: height, width of the canvas. tokens: of the longest caption. boxes: of the image with
    most boxes.
    """
    weights = bytes_of(model.state_dict().values())
    trained = bytes_of(parameter for parameter in model.parameters() if parameter.requires_grad)
    activations = _peak_of_a_step(model, batch_size, image_size, tokens, boxes, precision, recompute)
    average = weights if moving_average else 0
    return MemoryEstimate(
        weights, trained, 2 * trained, average, activations, batch_size, image_size, precision, recompute
    )


def estimate_run(config: TrainConfig, model: GroundingModel) -> MemoryEstimate:
    """The largest possible batch of a run: images of the largest size, the longest captions, 100 boxes per image."""
    estimate = estimate_memory(
        model,
        config.batch_size,
        largest_canvas(config.augment, model.config.image_scale, config.group_by_aspect or config.batch_size == 1),
        model.config.max_text_tokens,
        precision=config.precision,
        recompute=config.recompute,
        moving_average=bool(config.moving_average),
    )
    # DistributedDataParallel reduces gradients in buckets, a second copy of them.
    return replace(estimate, gradients=2 * estimate.gradients) if config.processes > 1 else estimate


def largest_canvas(augment: AugmentConfig, image_scale: tuple[int, int], one_aspect: bool) -> tuple[int, int]:
    """Maximum height, width of a batch in pixels. one_aspect: a batch has only landscape or only portrait images.

    Where augmentation does not resize images, they are assumed to have the image_scale of the model.
    """
    fitted = augment.fitted_to(image_scale)
    short = max(fitted.short_sides or (image_scale[0],))
    long = max(short, fitted.max_long_side or image_scale[1])
    return (short, long) if one_aspect else (long, long)


def check_memory(estimate: MemoryEstimate, device: torch.device) -> None:
    """Raises InputError, with settings that would fit, when the device has less free memory than the estimate.

    To be called before the run has allocated anything on the device. Does nothing where the free memory is unknown.
    """
    free = free_memory(device)
    if free is None or estimate.total <= free:
        return
    images = many(estimate.batch_size, "image")
    raise InputError(
        "batch_size",
        f"a step with {images} of {estimate.image_size[1]} x {estimate.image_size[0]} pixels needs about "
        f"{estimate.total / GIB:.1f} GiB, {free / GIB:.1f} GiB are free on {device}",
        "expected " + " or ".join(_remedies(estimate, free)),
    )


def _remedies(estimate: MemoryEstimate, free: int) -> list[str]:
    fitting = estimate.largest_batch(free)
    remedies = []
    if fitting:
        times = math.ceil(estimate.batch_size / fitting)
        remedies.append(f"batch_size {fitting} (with accumulate {times} a step learns from as many images)")
    if not estimate.recompute:
        remedies.append("recompute = true")
    if estimate.precision == "float32":
        remedies.append('precision = "bfloat16"')
    return [*remedies, "smaller augment.short_sides and augment.max_long_side"]


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process can still allocate on a device; None if unknown."""
    if device.type == "cuda":
        # The driver counts PyTorch's unused reserve as used.
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    if device.type != "cpu":
        return None
    limits = [limit for limit in (_available(), free_in_control_group()) if limit is not None]
    return min(limits) if limits else None


def _available() -> int | None:
    """MemAvailable of Linux."""
    for line in _lines(Path("/proc/meminfo")):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def free_in_control_group(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Free memory within the limit of a container's control group (version 2, then version 1); None without a limit.

    Reclaimable page cache counts as free.
    """
    for folder, limit_name, usage_name in (
        (root, "memory.max", "memory.current"),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limit, usage = ("".join(_lines(folder / name)) for name in (limit_name, usage_name))
        if limit.isdigit() and usage.isdigit():
            statistics = dict(line.split() for line in _lines(folder / "memory.stat") if len(line.split()) == 2)
            return max(int(limit) - int(usage) + int(statistics.get("inactive_file", 0)), 0)
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []


def describe_memory(config: TrainConfig) -> str:
    """`groundhog train CONFIG --dry-run`: the estimate of a run as a table, and the free memory. Loads no weights."""
    with torch.device("meta"):
        model = GroundingModel(_architecture(config))
    freeze(model, config.frozen)
    return describe_estimate(estimate_run(config, model), choose_device(config.device))


def describe_estimate(estimate: MemoryEstimate, device: torch.device) -> str:
    """The table of an estimate, and the free memory of the device."""
    return f"{estimate.table()}\nfree on {device!s:<3}  {_enough(estimate, free_memory(device))}"


def _enough(estimate: MemoryEstimate, free: int | None) -> str:
    if free is None:
        return "unknown"
    fitting = estimate.largest_batch(free)
    return f"{free / GIB:8.2f} GiB, " + (f"enough for batch_size {fitting}" if fitting else "too little for one image")


def _architecture(config: TrainConfig) -> ModelConfig:
    start = config.start
    assert not isinstance(start, FromStudent)
    if isinstance(start, FromWeights):
        return read_weights(locate(start.source), start.text_encoder).config
    return start.model_config()


# The step on fake tensors


def _peak_of_a_step(
    model: GroundingModel,
    batch_size: int,
    image_size: tuple[int, int],
    tokens: int,
    boxes: int,
    precision: Precision,
    recompute: bool,
) -> int:
    """Peak bytes of activations during forward and backward pass."""
    with FakeTensorMode():
        twin = GroundingModel(model.config).train()
        for copy, parameter in zip(twin.parameters(), model.parameters(), strict=True):
            copy.requires_grad_(parameter.requires_grad)
        set_recompute(twin, recompute)
        sample_compiled(twin)  # keeps more for the gradient than the plain layer does
        with LiveStorages() as live:
            for parameter in twin.parameters():
                if parameter.requires_grad:  # counted separately in the estimate
                    parameter.register_post_accumulate_grad_hook(live.exclude_gradient)
            with torch.autocast("cpu", AUTOCAST[precision], enabled=AUTOCAST[precision] is not None):
                loss = _surrogate_loss(twin, batch_size, image_size, tokens, boxes)
            loss.backward()
    return live.peak


def _surrogate_loss(
    model: GroundingModel, batch_size: int, image_size: tuple[int, int], tokens: int, boxes: int
) -> Tensor:
    """The forward pass of training, and a loss over the same tensors as grounding_losses.

    Matching needs data, so this loss has no matches: the classification loss has the size of the real one, and the box
    losses are small.
    """
    grounding = model.ground(
        model.encode_image(ImageBatch(torch.empty(batch_size, 3, *image_size), _sizes(batch_size, image_size))),
        model.encode_text(_captions(batch_size, tokens)),
        _denoising_queries(model, batch_size, boxes),
    )
    settings = LossSettings()
    sets = [*zip(grounding.logits, grounding.boxes), (grounding.encoder_logits, grounding.encoder_boxes)]
    if grounding.denoising is not None:
        sets += zip(grounding.denoising.logits, grounding.denoising.boxes)
    parts = []
    for logits, predicted in sets:
        finite = finite_logits(logits, grounding.token_mask)
        parts += [focal_loss(finite, torch.zeros_like(finite), settings.focal_alpha, settings.focal_gamma).sum()]
        parts += [predicted.float().abs().sum()]
    return torch.stack(parts).sum()


def _sizes(batch_size: int, image_size: tuple[int, int]) -> Tensor:
    return torch.tensor(image_size, dtype=torch.int64).expand(batch_size, 2)


def _captions(batch_size: int, tokens: int) -> TextBatch:
    shape = (batch_size, tokens)
    return TextBatch(
        input_ids=torch.zeros(shape, dtype=torch.int64),
        token_mask=torch.ones(shape, dtype=torch.bool),
        position_ids=torch.zeros(shape, dtype=torch.int64),
        attention=torch.ones(batch_size, tokens, tokens, dtype=torch.bool),
    )


def _denoising_queries(model: GroundingModel, batch_size: int, boxes: int) -> DenoisingQueries | None:
    """As many as ContrastiveDenoising makes when the fullest image has this many boxes."""
    settings = model.config.denoising
    if not settings.queries or not boxes:
        return None
    groups, group_size = max(1, settings.queries // boxes), 2 * boxes
    shape = (batch_size, groups * group_size)
    nothing = torch.empty(0, dtype=torch.int64)
    return DenoisingQueries(
        content=model.denoising.label_embedding(torch.zeros(shape, dtype=torch.int64)),
        references=torch.zeros(*shape, 4),
        attention_block=attention_block(groups, group_size, model.config.queries, nothing.device),
        positives=Matching(nothing, nothing, nothing),
        groups=groups,
        group_size=group_size,
    )


class LiveStorages(TorchDispatchMode):
    """Counts the bytes of every storage that operations allocate, during its lifetime.

    fake: where code reads a value, which fake tensors do not have, it gets True: is any pixel padding?
    """

    def __init__(self, fake: bool = True) -> None:
        super().__init__()
        self._fake = fake
        self.peak = 0
        self._bytes = 0
        self._live: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self._fake and func is torch.ops.aten._local_scalar_dense.default:
            return True
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._live:
            self._live[key] = storage.nbytes()
            self._bytes += storage.nbytes()
            self.peak = max(self.peak, self._bytes)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._bytes -= self._live.pop(key, 0)

    def exclude_gradient(self, parameter: Tensor) -> None:
        assert parameter.grad is not None  # it was just accumulated
        self._bytes -= self._live.get(key := parameter.grad.untyped_storage()._cdata, 0)
        self._live[key] = 0


def bytes_of(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
