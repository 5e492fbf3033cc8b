"""The two kinds of attention that torch does not provide.

B batch, Q queries, V image tokens of all levels, L text tokens, C model width, H heads, K levels, P points.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grounding_model.model.activation_checkpointing import recomputed
from grounding_model.model.kernels.feedforward import feed_forward

LevelSizes = Sequence[tuple[int, int]]  # height, width of each level


# Rows per call. A CPU is several times faster as long as its output fits into the cache.
INFERENCE_ROWS = 1024
TRAINING_ROWS = 4096  # the gradient of each call is a whole table, so fewer calls are faster


def on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu"


def in_row_chunks(layer: Callable[..., Tensor], *inputs: Tensor, recompute: bool = True) -> Tensor:
    """Returns layer(*inputs) for a layer that processes each row independently: tensors (N, ...) -> (N, C').

    On a CPU, a few rows at a time. In training, each chunk is recomputed in the backward pass, which is often cheaper
    than storing its activations. recompute: False if that is slower, or if the layer is random (dropout) and must
    therefore run only once.
    """
    training = torch.is_grad_enabled()
    if not on_cpu(inputs[0]) or (training and not recompute):
        return layer(*inputs)
    chunks = zip(*(x.split(TRAINING_ROWS if training else INFERENCE_ROWS) for x in inputs))
    answers = [recomputed(layer, *rows) if training else layer(*rows) for rows in chunks]
    return answers[0] if len(answers) == 1 else torch.cat(answers)


def sample_levels(value: Tensor, sizes: LevelSizes, locations: Tensor, weights: Tensor) -> Tensor:
    """(B, V, H, C/H), (B, Q, H, K, P, 2) x y fractions, (B, Q, H, K, P) -> (B, Q, C).

    The weighted sum of bilinear samples from all levels; samples outside a level are zero.
    """
    table = value.reshape(-1, value.shape[-1])
    first_rows = first_rows_of(value, locations.shape[1])
    sampled = sample_rows(table, sizes, first_rows, locations.flatten(0, 1), weights.flatten(0, 1))
    return sampled.unflatten(0, locations.shape[:2])


def first_rows_of(value: Tensor, queries: int) -> Tensor:
    """(B, V, H, C/H) -> (B * Q,) int32: index of the first row of each query's image in the table of all images."""
    batch, tokens, heads, _ = value.shape
    images = torch.arange(batch, dtype=torch.int32, device=value.device)
    return (images * (tokens * heads)).repeat_interleave(queries, output_size=batch * queries)


def sample_rows(table: Tensor, sizes: LevelSizes, first_rows: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """(B * V * H, C/H), (N,) int32, (N, H, K, P, 2) x y fractions, (N, H, K, P) -> (N, C) for any N queries.

    The row of a head of a token of an image is (image * V + token) * H + head. The result is a weighted sum of
    4 * K * P rows for each query and head, so samples are never written to memory (tests compare with grid_sample).
    """
    rows, shares = corners(sizes, locations, weights)
    rows = (rows + first_rows[:, None, None, None]).flatten(0, 1).flatten(1)
    shares = shares.flatten(0, 1).flatten(1)
    if torch.is_grad_enabled():  # gradients of many samples are summed in the precision of the table
        table = table.to(shares.dtype)
    sampled = F.embedding_bag(rows, table, mode="sum", per_sample_weights=shares.to(table.dtype))
    return sampled.view(len(locations), -1)


def level_constants(sizes: LevelSizes, device: torch.device) -> Tensor:
    """-> (K, 3) int32: height, width and first token of each level. Cached for GPUs, as a copy would synchronise."""
    made = _level_constants_of_gpu if device.type == "cuda" else _level_constants
    return made(tuple(sizes), device)


def _level_constants(sizes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    starts = [0, *itertools.accumulate(height * width for height, width in sizes)]
    with torch.inference_mode(False):  # so that training can use the cached tensor too
        return torch.tensor([(*size, start) for size, start in zip(sizes, starts)], dtype=torch.int32, device=device)


_level_constants_of_gpu = lru_cache(maxsize=256)(_level_constants)


def corners(sizes: LevelSizes, locations: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(Q, H, K, P, 2) x y fractions, (Q, H, K, P) weights -> the four cells around each point: their rows
    (Q, H, 4, K * P) int32 in the table of one image, and their bilinear weights times the weight of the point. A cell
    outside the level is represented by some row of the level with weight zero."""
    queries, heads, _, points = weights.shape
    # Constants are repeated along one dimension for all heads, levels and points: torch broadcasts short ones slowly.
    levels = level_constants(sizes, weights.device)
    height, width, start = levels[:, None].expand(-1, points, -1).flatten(0, 1).repeat(heads, 1).T.contiguous()
    head = torch.arange(heads, dtype=torch.int32, device=weights.device)
    head = head[:, None].expand(-1, len(sizes) * points).flatten()
    left, right, left_share, right_share = neighbours(locations[..., 0].flatten(1), width)
    top, bottom, top_share, bottom_share = neighbours(locations[..., 1].flatten(1), height)
    weights = weights.flatten(1)
    top_share, bottom_share = top_share * weights, bottom_share * weights
    top, bottom = (top * width + start) * heads + head, (bottom * width + start) * heads + head
    left, right = left * heads, right * heads
    rows = [row + column for row in (top, bottom) for column in (left, right)]
    shares = [row * column for row in (top_share, bottom_share) for column in (left_share, right_share)]
    by_head = (queries, heads, -1)
    return torch.stack([x.view(by_head) for x in rows], 2), torch.stack([x.view(by_head) for x in shares], 2)


def neighbours(fractions: Tensor, length: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fractions along an axis of `length` cells -> the cells before and after (int32), and the weight of each."""
    position = fractions * length - 0.5
    before = position.detach().floor()
    share = position - before
    before = before.int()
    after = before + 1
    shares = (1 - share) * ((before >= 0) & (before < length)), share * ((after >= 0) & (after < length))
    last, zero = length - 1, torch.zeros_like(length)
    return before.clamp(zero, last), after.clamp(zero, last), *shares


def rows_times(rows: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    """Computes (B, N, I) @ (B or 1, I, J) + bias; the bias broadcasts to (B, N, J)."""
    if len(matrix) == 1:  # one product for all rows of the batch
        return torch.addmm(bias.flatten(), rows.flatten(0, 1), matrix[0]).unflatten(0, rows.shape[:2])
    return torch.baddbmm(bias, rows, matrix)


class DeformableAttention(nn.Module):
    """Each query attends to a few points of every level around its reference (arXiv 2010.04159, section 4.1)."""

    recomputes_chunks = True  # in training, see in_row_chunks

    def __init__(self, width: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(width, heads * levels * points * 2)
        self.weights = nn.Linear(width, heads * levels * points)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initially each head looks in a different direction, and each point lies further out than the one before."""
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
        direction = direction / direction.abs().max(dim=-1, keepdim=True).values
        distance = torch.arange(1, self.points + 1)
        bias = direction[:, None, None, :] * distance[None, None, :, None]
        with torch.no_grad():
            self.offsets.bias.copy_(bias.expand(-1, self.levels, -1, -1).flatten())
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, query: Tensor, memory: Tensor, references: Tensor, sizes: LevelSizes, padding: Tensor | None
    ) -> Tensor:
        """query (B, Q, C), with position added; memory (B, V, C); references (B, Q, K, 2 or 4) points or cxcywh, in
        fractions of each level's padded size; padding (B, V) True outside the content -> (B, Q, C)."""
        value = self.value(memory)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0)
        value = value.unflatten(-1, (self.heads, -1))
        table = value.reshape(-1, value.shape[-1])

        def look(query: Tensor, references: Tensor, first_rows: Tensor) -> Tensor:
            locations, weights = self.points_of(query, references, sizes)
            sampled = self.sample(table, sizes, first_rows, locations, weights)
            return self.output(sampled.to(self.output.weight.dtype))

        references = references.expand(len(query), -1, -1, -1).flatten(0, 1)
        first_rows = first_rows_of(value, query.shape[1])
        answer = in_row_chunks(look, query.flatten(0, 1), references, first_rows, recompute=self.recomputes_chunks)
        return answer.unflatten(0, query.shape[:2])

    def sample(
        self, table: Tensor, sizes: LevelSizes, first_rows: Tensor, locations: Tensor, weights: Tensor
    ) -> Tensor:
        """See sample_rows; a subclass may use a faster kernel."""
        return sample_rows(table, sizes, first_rows, locations, weights)

    def points_of(self, query: Tensor, references: Tensor, sizes: LevelSizes) -> tuple[Tensor, Tensor]:
        """query (N, C), references (N, K, 2 or 4) -> x y fractions (N, H, K, P, 2), weights (N, H, K, P)."""
        offsets = self.offsets(query)
        weights = self.weights(query).view(len(query), self.heads, -1).softmax(-1)
        by_point = (len(query), self.heads, self.levels, self.points)
        if references.shape[-1] == 2:  # points: offsets are in cells of the level
            cells = level_constants(sizes, query.device)[:, :2].flip(-1)
            cells = self.for_each_point(cells[None].to(offsets.dtype))
            locations = torch.addcdiv(self.for_each_point(references), offsets, cells)
        else:  # boxes: offsets are in half box sizes, divided by the number of points
            centre, half = references[..., :2], references[..., 2:] * 0.5
            locations = self.for_each_point(centre) + offsets / self.points * self.for_each_point(half)
        return locations.view(*by_point, 2), weights.view(by_point)

    def for_each_point(self, x: Tensor) -> Tensor:
        """(N, K, 2) -> (N, H * K * P * 2), repeated, since torch broadcasts short dimensions slowly."""
        return x.repeat_interleave(self.points, 1).flatten(1).repeat(1, self.heads)


class ImageTextFusion(nn.Module):
    """Image tokens attend to words and words to image tokens, by one table of scores (GLIP, arXiv 2112.03857, 3.2)."""

    # Scores are clamped to this range so that half precision cannot overflow (GLIP).
    score_limit = 50000.0
    # Number format of the products with values of words and image tokens, on a CPU without gradient; attention scores
    # are not rounded. See precision.py.
    taken_dtype: torch.dtype | None = None

    def __init__(self, width: int, fusion_width: int, heads: int, initial_scale: float, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.image_norm, self.text_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.image_query, self.text_key = nn.Linear(width, fusion_width), nn.Linear(width, fusion_width)
        self.image_value, self.text_value = nn.Linear(width, fusion_width), nn.Linear(width, fusion_width)
        self.image_output, self.text_output = nn.Linear(fusion_width, width), nn.Linear(fusion_width, width)
        self.image_scale = nn.Parameter(torch.full((width,), initial_scale))
        self.text_scale = nn.Parameter(torch.full((width,), initial_scale))
        self.dropout = nn.Dropout(dropout)
        for layer in self.children():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor, text: Tensor, padding: Tensor | None, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        """image (B, V, C), text (B, L, C), padding (B, V) True outside the content, token_mask (B, L) True for tokens
        -> image and text, fused. The residual is added to the normalised tokens, as in the reference.

        There are few words and many image tokens, so each linear layer of the image side is multiplied with the words
        first: (image W) words = image (W words). No image token is ever written with fusion_width channels.
        """
        image, text = self.image_norm(image), self.text_norm(text)
        draws = self.training and self.dropout.p > 0
        if on_cpu(image) and not torch.is_grad_enabled() and not draws:
            image_delta, seen, total = self.in_chunks(image, text, padding, token_mask)
        else:
            # Image tokens are the last dimension, contiguous in memory: otherwise softmax over them is slow on a GPU.
            scores = self.scores_by_word(image, *self.query_words(text))
            # Padded words are masked. The reference does not mask them (FACTS.md 7, quirk A), so that there an
            # image's result depends on the longest caption of its batch.
            to_text = scores.masked_fill(~token_mask[:, None, :, None], float("-inf")).softmax(2)
            if padding is not None:
                scores = scores.masked_fill(padding[:, None, None], float("-inf"))
            to_image = self.dropout(scores.softmax(3))
            to_text = self.dropout(to_text).flatten(1, 2).transpose(1, 2)
            image_delta = self.seen_of_words(to_text, self.value_words(text))
            seen, total = to_image.flatten(1, 2) @ image, to_image.sum(3)
        return image + self.image_scale * image_delta, text + self.text_scale * self.seen_of_image(seen, total)

    def in_chunks(
        self, image: Tensor, text: Tensor, padding: Tensor | None, token_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Without gradient and dropout: the update of the image tokens, and the arguments seen, total of seen_of_image.

        A few image tokens at a time, so that the scores fit into a CPU's cache. The sums over all image tokens are
        rescaled when a chunk contains a larger score (online softmax, arXiv 1805.02867).
        """
        queries, values, all_real = self.query_words(text), self.value_words(text), bool(token_mask.all())
        values = values.to(self.taken_dtype or values.dtype)
        deltas = []
        largest = image.new_full((len(image), 1, self.heads, text.shape[1]), -self.score_limit)
        seen = total = image.new_zeros(())
        for first in range(0, image.shape[1], INFERENCE_ROWS):
            chunk = image[:, first : first + INFERENCE_ROWS]
            scores = self.scores(chunk, *queries)
            real = scores if all_real else scores.masked_fill(~token_mask[:, None, None, :], float("-inf"))
            deltas.append(self.seen_of_words(real.softmax(-1).flatten(2).to(values.dtype), values))
            if padding is not None:
                scores.masked_fill_(padding[:, first : first + INFERENCE_ROWS, None, None], float("-inf"))
            before, largest = largest, torch.maximum(largest, scores.amax(1, keepdim=True))
            shares, rescale = scores.sub_(largest).exp_(), (before - largest).exp_()
            total = total * rescale[:, 0] + shares.sum(1)
            taken = shares.to(values.dtype).flatten(2).transpose(1, 2) @ chunk.to(values.dtype)
            seen = seen * rescale.view(len(image), -1, 1) + taken
        return torch.cat(deltas, 1), seen / total.view(len(image), -1, 1), torch.ones_like(total)

    def query_words(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """text (B, L, C) -> the factors that turn an image token into its scores (B, H * L, C), and their bias."""
        layer = self.image_query
        key = self.split_heads(self.text_key(text)) * (layer.out_features // self.heads) ** -0.5  # (B, H, L, D)
        words = (key @ layer.weight.unflatten(0, (self.heads, -1))).flatten(1, 2)
        bias = (key @ layer.bias.view(self.heads, -1, 1)).flatten(1)
        return words, bias[:, None]  # (B, 1, H * L)

    def value_words(self, text: Tensor) -> Tensor:
        """text (B, L, C) -> the value of each word for image tokens, (B, H * L, C)."""
        value = self.split_heads(self.text_value(text))  # (B, H, L, D)
        weight = self.image_output.weight.unflatten(1, (self.heads, -1)).permute(1, 2, 0)
        return (value @ weight).flatten(1, 2)

    def scores(self, image: Tensor, words: Tensor, bias: Tensor) -> Tensor:
        """Attention scores between image tokens and words, (B, V, H, L)."""
        scores = rows_times(image, words.transpose(1, 2), bias)
        return scores.clamp(-self.score_limit, self.score_limit).unflatten(-1, (self.heads, -1))

    def scores_by_word(self, image: Tensor, words: Tensor, bias: Tensor) -> Tensor:
        """The scores as (B, H, L, V)."""
        scores = torch.baddbmm(bias.transpose(1, 2), words.expand(len(image), -1, -1), image.transpose(1, 2))
        return scores.clamp(-self.score_limit, self.score_limit).unflatten(1, (self.heads, -1))

    def seen_of_words(self, to_text: Tensor, values: Tensor) -> Tensor:
        """to_text (B, V, H * L), values (B, H * L, C) -> the update of each image token from the words, (B, V, C)."""
        return rows_times(to_text, values, self.image_output.bias.to(values.dtype))

    def seen_of_image(self, seen: Tensor, total: Tensor) -> Tensor:
        """seen (B, H * L, C): weighted sum of image tokens. total (B, H, L): sum of the weights; 1 without dropout.
        -> the update of each word from the image, (B, L, C)."""
        layer = self.image_value
        weight = layer.weight.unflatten(0, (self.heads, -1)).transpose(1, 2)
        value = seen.unflatten(1, (self.heads, -1)) @ weight  # (B, H, L, D)
        value = value + total[..., None] * layer.bias.view(self.heads, 1, -1)
        return self.text_output(value.transpose(1, 2).flatten(2))

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, H, N, width / H)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.expand, self.shrink = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        drawn = self.training and self.dropout.p > 0
        if on_cpu(x) and torch.is_grad_enabled() and not drawn and not torch.is_autocast_enabled("cpu"):
            parts = ((layer.weight, layer.bias) for layer in (self.expand, self.shrink))
            return feed_forward(x.flatten(0, -2), *parts).unflatten(0, x.shape[:-1])
        return in_row_chunks(self.of_rows, x.flatten(0, -2), recompute=not drawn).unflatten(0, x.shape[:-1])

    def of_rows(self, x: Tensor) -> Tensor:
        return self.dropout(self.shrink(self.dropout(F.relu(self.expand(x)))))


class MultiheadAttention(nn.MultiheadAttention):
    """torch's MultiheadAttention, batch first, returning only the values; True in a mask means "may not attend"."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__(width, heads, dropout=dropout, batch_first=True)

    def forward(  # type: ignore[override]
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        blocked: Tensor | None = None,
        key_padding: Tensor | None = None,
    ) -> Tensor:
        """query (B, Q, C), key and value (B, N, C), blocked (Q, N) or (B, Q, N), key_padding (B, N) -> (B, Q, C).

        Tensors with a first dimension of 1 instead of B are broadcast over the batch.
        """
        query, key, value = (self._split(x) for x in self._projected(query, key, value))
        allowed = None
        if blocked is not None:
            allowed = ~(blocked[:, None] if blocked.dim() == 3 else blocked)
        if key_padding is not None:
            real = ~key_padding[:, None, None]
            allowed = real if allowed is None else allowed & real
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> Sequence[Tensor]:
        """Applies the three parts of the input layer, in one product if several have the same input."""
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if query is not key:
            inputs = (query, key, value)
            return [F.linear(x, w, b) for x, w, b in zip(inputs, weight.chunk(3), bias.chunk(3))]
        both = 2 * self.embed_dim
        first, second = F.linear(query, weight[:both], bias[:both]).chunk(2, -1)
        return first, second, F.linear(value, weight[both:], bias[both:])

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, H, N, C / H)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
