"""Every stage of the model gives the reference's numbers: golden set a, see tests/golden/README.md."""

import json

import numpy as np
import pytest
import torch

from grounding_model.inputs.image import read_image, resize_for_test
from grounding_model.inputs.image_batch import ImageBatch, collate_images
from grounding_model.inputs.tokens import tokenize
from grounding_model.model.encoder import ImageTokens, encoder_references
from grounding_model.model.positions import box_code, pixel_code, token_code, whole_map_code
from grounding_model.model.query_selection import proposal_boxes
from grounding_model.model.swin import SwinTransformer, shifted_window_mask
from tests.paths import GOLDEN

A = GOLDEN / "a"
UNIT = {key: torch.from_numpy(value) for key, value in np.load(A / "unit.npz").items()}
SIZES = [tuple(size) for size in UNIT["msda_spatial_shapes"].tolist()]


def images(*indices: int) -> ImageBatch:
    return collate_images([resize_for_test(read_image(A / f"img{index}.png"), (160, 266)) for index in indices])


def intermediates(folder: str, case: str) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(A / folder / f"{case}.npz").items()}


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


@pytest.fixture(autouse=True)
def _no_gradient():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("size", ["97x131", "33x250", "64x64", "161x90"])
def test_swin_and_neck_on_odd_sizes(reference_model, size):
    """Maps that are no multiple of the window: the reference pads first, timm's own network rolls first."""
    swin = np.load(A / "swin_only.npz")
    maps = reference_model.backbone(torch.from_numpy(swin[f"{size}/input_int8_times_1_64"]).float() / 64)
    for index, x in enumerate(maps):
        close(x, torch.from_numpy(swin[f"{size}/out{index}"]))
    for index, x in enumerate(reference_model.neck(maps)):
        close(x, torch.from_numpy(swin[f"{size}/neck{index}"]))


def test_fusion_layer_without_padded_words(reference_model):
    """The image side of the golden has the reference's quirk A (padded words are looked at): full captions must agree,
    and so must the text side, which the quirk does not touch."""
    fusion = reference_model.encoder.layers[0].fusion
    token_mask = ~UNIT["fusion_text_pad"]
    image, text = fusion(UNIT["fusion_visual_in"], UNIT["fusion_text_in"], UNIT["fusion_visual_pad"], token_mask)
    close(text, UNIT["fusion_text_out"], 1e-5)
    full = token_mask.all(1)
    assert full.any()
    close(image[full], UNIT["fusion_visual_out"][full], 1e-5)


def test_deformable_attention_from_boxes(reference_model):
    attention = reference_model.decoder.layers[0].image_attention
    query = UNIT["msda_query"] + UNIT["msda_query_pos"]
    delta = attention(query, UNIT["msda_value"], UNIT["msda_ref4"], SIZES, UNIT["msda_value_pad"])
    close(UNIT["msda_query"] + delta, UNIT["msda_dec0_cross_out"], 1e-5)


def test_position_codes():
    close(pixel_code(UNIT["pos_mask"], 64).permute(0, 3, 1, 2), UNIT["pos_with_mask"], 1e-5)
    close(pixel_code(torch.zeros(1, 5, 6).bool(), 64).permute(0, 3, 1, 2), UNIT["pos_without_mask"], 1e-5)
    close(token_code(UNIT["text_pos_in"][..., 0], 64), UNIT["text_pos_out"], 1e-5)
    close(box_code(UNIT["box_pos_in"], 64), UNIT["box_pos_out"], 1e-5)


def test_every_stage_of_one_image(reference_checkpoint):
    model, tokenizer = reference_checkpoint.model, reference_checkpoint.tokenizer
    golden = intermediates("inter", "od_tuple_img0")
    text = tokenize(["cat. dog. person. red apple. traffic light. "], tokenizer)
    assert torch.equal(text.input_ids, golden["text_input_ids"])
    assert torch.equal(text.position_ids, golden["text_position_ids"])
    assert torch.equal(text.attention, golden["text_self_attn_mask"])
    batch = images(0)
    for index, x in enumerate(model.backbone(batch.pixels)):
        close(x, golden[f"backbone_{index}"])
    image, words = model.encode_image(batch), model.encode_text(text)
    for index, x in enumerate(image.levels):
        close(x, golden[f"neck_{index}"])
    close(image.image.positions, golden["enc_pos_flatten"], 1e-5)
    close(image.image.valid_ratios, golden["valid_ratios"], 1e-6)
    close(words.tokens, golden["text_feat_mapped"])
    memory, memory_text = model.encoder(image.image, words.tokens, text.token_mask, text.position_ids, text.attention)
    close(memory, golden["memory"])
    close(memory_text, golden["memory_text"])
    grounding = model.ground(image, words)
    close(grounding.logits, golden["head_all_cls_logits"])
    close(grounding.boxes, golden["head_all_boxes_cxcywh"], 1e-5)


@pytest.mark.parametrize("case", ["batch_same_text", "batch_diff_text", "batch_pg_diff", "batch_rec_mixed"])
def test_batches_equal_the_repaired_reference(reference_checkpoint, case):
    """Padded canvases, captions of different length: the numbers made with quirks A and B repaired."""
    golden = intermediates("inter_fixed", case)
    captions = [result["caption"] for result in json.loads((A / "cases_fixed.json").read_text())[case]["results"]]
    text = tokenize(captions, reference_checkpoint.tokenizer)
    grounding = reference_checkpoint.model(images(0, 1, 2), text)
    layers = golden["head_all_cls_logits"].shape[0]  # the last layer only, where the golden is short
    tokens = text.token_mask[None, :, None, :].expand_as(grounding.logits[-layers:])
    close(grounding.logits[-layers:][tokens], golden["head_all_cls_logits"][tokens])
    close(grounding.boxes[-layers:], golden["head_all_boxes_cxcywh"], 1e-5)


def test_a_caption_is_not_changed_by_a_longer_one_beside_it(reference_checkpoint):
    model, tokenizer = reference_checkpoint.model, reference_checkpoint.tokenizer
    captions = ["horse. ", "cat. dog. person. red apple. traffic light. bench. bicycle. "]
    alone = model(images(0), tokenize(captions[:1], tokenizer))
    together = model(images(0, 0), tokenize(captions, tokenizer))
    length = alone.logits.shape[-1]
    close(together.logits[:, :1, :, :length], alone.logits, 1e-5)
    close(together.boxes[:, :1], alone.boxes, 1e-5)


def test_order_of_a_batch_does_not_matter(reference_checkpoint):
    model, tokenizer = reference_checkpoint.model, reference_checkpoint.tokenizer
    captions = ["cat. dog. ", "a red hat. ", "two men are here. "]
    forward = model(images(0, 1, 2), tokenize(captions, tokenizer))
    backward = model(images(2, 1, 0), tokenize(captions[::-1], tokenizer))
    close(backward.boxes.flip(1), forward.boxes, 1e-5)


def test_content_beyond_an_image_is_never_sampled(reference_checkpoint):
    """Deformable attention and query selection see nothing in the padding: noise there changes no answer once the
    feature maps are made."""
    model, tokenizer = reference_checkpoint.model, reference_checkpoint.tokenizer
    text = tokenize(["cat. dog. ", "cat. dog. "], tokenizer)
    image, words = model.encode_image(images(0, 2)), model.encode_text(text)
    clean = model.ground(image, words)
    tokens = image.image.tokens.clone()
    tokens[image.image.padding] += 10
    noisy = model.ground(image._replace(image=image.image._replace(tokens=tokens)), words)
    close(noisy.boxes, clean.boxes, 1e-5)


def test_proposals_stay_inside_the_content():
    sizes = [(4, 6), (2, 3)]
    padding = torch.zeros(1, 4 * 6 + 2 * 3).bool()
    image = ImageTokens(torch.zeros(1, 30, 8), torch.zeros(1, 30, 8), padding, sizes, torch.ones(1, 2, 2))
    boxes, usable = proposal_boxes(image)
    assert boxes.shape == (1, 30, 4)
    assert usable.all()
    close(boxes[0, 0], torch.tensor([0.5 / 6, 0.5 / 4, 0.05, 0.05]), 1e-6)
    close(boxes[0, 24], torch.tensor([0.5 / 3, 0.5 / 2, 0.1, 0.1]), 1e-6)


def test_what_depends_on_the_size_alone_is_what_an_image_without_padding_gets():
    sizes = [(4, 6), (2, 3)]
    for height, width in sizes:
        expected = pixel_code(torch.zeros(1, height, width).bool(), 64)
        assert torch.equal(whole_map_code(height, width, 64, torch.device("cpu")), expected)
    tokens = torch.zeros(2, 30, 8)
    padded = ImageTokens(tokens, tokens, torch.zeros(2, 30).bool(), sizes, torch.ones(2, 2, 2))
    whole = padded._replace(padding=None)
    assert torch.equal(encoder_references(whole).expand(2, -1, -1, -1), encoder_references(padded))
    for expected, found in zip(proposal_boxes(padded), proposal_boxes(whole)):
        assert torch.equal(found.expand_as(expected), expected)


def test_shifted_windows_part_what_the_roll_brought_together():
    """Brute force: two pixels of a window may attend iff they lie in the same window of the unshifted grid's bands."""
    height = width = 8
    window, shift = 4, 2
    mask = shifted_window_mask(height, width, window, shift, torch.device("cpu"))

    def band(position: int, length: int) -> int:
        return 0 if position < length - window else 1 if position < length - shift else 2

    for index, (top, left) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        cells = [(top + y, left + x) for y in range(window) for x in range(window)]
        regions = [(band(y, height), band(x, width)) for y, x in cells]
        for i, first in enumerate(regions):
            for j, second in enumerate(regions):
                assert (mask[index, i, j] == 0) == (first == second)


def test_swin_stage_channels_follow_the_configuration():
    from grounding_model.model.config import SWIN_L

    with torch.device("meta"):
        swin = SwinTransformer(SWIN_L.backbone)
    assert swin.channels == (192, 384, 768, 1536)
