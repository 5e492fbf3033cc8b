"""The forward pass as CUDA graphs, one for each input size that occurs again.

At batch 1 the GPU work takes a fifth of the time that Python needs to launch two thousand kernels; a graph launches
them all at once. https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from grounding_model.inputs.image_batch import ImageBatch
from grounding_model.inputs.tokens import TextBatch
from grounding_model.model.grounding import Grounding, GroundingModel, ImageFeatures

logger = logging.getLogger(__name__)

MAX_GRAPHS = 32  # sizes kept for each of the two parts; the least recently used one is dropped
MAX_SEEN = 4096  # number of sizes seen once that are remembered


class Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]  # that the graph reads
    outputs: Any  # that the graph writes


class ReplayedFunction:
    """A function of tensors, nested in tuples and lists, that does the same work for the same shapes.

    It is called directly for new shapes, recorded the second time that they occur, and replayed from then on.
    Graphs share a memory pool, so their outputs are copied before the next graph may run.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.recordings: OrderedDict[Hashable, Recording] = OrderedDict()
        self.seen: OrderedDict[Hashable, None] = OrderedDict()
        self.pool: Any = None
        self.usable = True

    def __call__(self, *arguments: Any) -> Any:
        if not self.usable:
            return self.function(*arguments)
        leaves, structure = tree_flatten(arguments)
        key = (structure, *(shape_of(leaf) for leaf in leaves))
        if key not in self.recordings:
            if key not in self.seen:
                remember(self.seen, key, None, MAX_SEEN)
                return self.call(*arguments)
            try:
                recording = self.record(leaves, structure)
            except RuntimeError as error:  # memory, or an operation that cannot be recorded
                logger.warning("cannot record CUDA graphs, running without them: %s", str(error).splitlines()[0])
                self.forget()
                return self.function(*arguments)
            remember(self.recordings, key, recording, MAX_GRAPHS)
        self.recordings.move_to_end(key)
        recording = self.recordings[key]
        for buffer, tensor in zip(recording.inputs, tensors_of(leaves)):
            buffer.copy_(tensor, non_blocking=True)
        recording.graph.replay()
        return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, recording.outputs)

    def call(self, *arguments: Any) -> Any:
        """The function itself; where memory runs out, what recordings hold is given back first."""
        try:
            return self.function(*arguments)
        except torch.OutOfMemoryError:
            if not self.recordings:
                raise
            logger.warning("the GPU's memory is full: running without CUDA graphs")
        self.forget()  # outside of the handler, whose traceback holds tensors
        return self.function(*arguments)

    def forget(self) -> None:
        """Gives up recording, and the memory of what was recorded: torch takes it when it next needs some."""
        self.usable = False
        self.recordings.clear()
        self.pool = None

    def record(self, leaves: list[Any], structure: Any) -> Recording:
        buffers = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        arguments = tree_unflatten(buffers, structure)
        self.function(*arguments)  # copies what is cached for a size to the device
        graph = torch.cuda.CUDAGraph()
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        # thread_local: meanwhile other threads read images into pinned memory.
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            outputs = self.function(*arguments)
        return Recording(graph, tensors_of(buffers), outputs)


def tensors_of(leaves: list[Any]) -> list[Tensor]:
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def shape_of(leaf: Any) -> Hashable:
    return (leaf.shape, leaf.stride(), leaf.dtype) if isinstance(leaf, Tensor) else leaf


def remember(memory: OrderedDict, key: Hashable, value: Any, limit: int) -> None:
    memory[key] = value
    while len(memory) > limit:
        memory.popitem(last=False)


class ReplayedModel:
    """A GroundingModel for inference on a GPU that runs encode_image and ground as CUDA graphs."""

    def __init__(self, model: GroundingModel) -> None:
        self.model = model
        self.encode_pixels = ReplayedFunction(self._encode_pixels)
        self.ground = ReplayedFunction(model.ground)

    def __call__(self, images: ImageBatch, text: TextBatch) -> Grounding:
        return self.ground(self.encode_image(images), self.model.encode_text(text))

    def encode_image(self, images: ImageBatch) -> ImageFeatures:
        if images.padded:  # padding is computed from sizes on the CPU
            return self.model.encode_image(images)
        return self.encode_pixels(images.pixels)

    def _encode_pixels(self, pixels: Tensor) -> ImageFeatures:
        height, width = pixels.shape[-2:]
        return self.model.encode_image(ImageBatch(pixels, torch.tensor([[height, width]] * len(pixels))))
