"""`groundhog detect`: the reference's boxes, scores, labels and names, written for every mode of the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from flows.cli import main
from grounding_model.prompt import clean_name
from tests.paths import GOLDEN

A = GOLDEN / "a"
MODEL = ["--weights", str(A / "checkpoint.pth"), "--text-encoder", str(A / "bert"), "--device", "cpu"]
AS_REFERENCE = [*MODEL, "--scale", "160,266", "--max-per-img", "40", "--pred-score-thr", "0"]
CASES = json.loads((A / "cases.json").read_text())
# What the command line can say. It takes one prompt for all images, and no enhanced names, as the reference's has none.
SPOKEN = [name for name in CASES if name.split("_")[0] in ("od", "pg", "rec", "ner", "chunk5")]
SPOKEN = [name for name in SPOKEN if "enhanced" not in name and "norescale" not in name and name != "ner_img2"]


def arguments_of(name: str) -> list[str]:
    """A case of the reference as its user would type it."""
    (item,) = CASES[name]["items"]
    text = item["text"] if isinstance(item["text"], str) else ". ".join(item["text"])
    arguments = [str(A / f"img{item['img']}.png"), "--texts", text]
    if item["custom_entities"] or not isinstance(item["text"], str):
        arguments.append("-c")
    if item.get("tokens_positive") is not None:
        arguments += ["--tokens-positive", json.dumps(item["tokens_positive"])]
    if CASES[name]["chunked_size"] > 0:
        arguments += ["--chunked-size", str(CASES[name]["chunked_size"])]
    return arguments


def cleaned(name: str) -> str:
    """The reference answers with cleaned names, blanks and its own full stop at their ends; ours with the caller's."""
    return clean_name(name).strip(" .")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tagged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noun phrases as the reference found them, without NLTK's data."""
    spans = {
        "There is two cat and a remote in the picture.": [(13, 16), (21, 29), (33, 44)],
        "two men are standing near a black horse with a red hat": [(4, 7), (26, 39), (45, 54)],
    }
    monkeypatch.setattr("grounding_model.noun_phrases.noun_phrases", spans.__getitem__)


@pytest.mark.usefixtures("tagged")
@pytest.mark.parametrize("name", SPOKEN)
def test_every_mode_writes_what_the_reference_finds(name: str, tmp_path: Path) -> None:
    assert main(["detect", *arguments_of(name), *AS_REFERENCE, "--no-save-vis", "--out-dir", str(tmp_path)]) == 0
    (item,) = CASES[name]["items"]
    found = json.loads((tmp_path / "preds" / f"img{item['img']}.json").read_text())
    reference = np.load(A / "predictions.npz")
    scores = reference[f"{name}/0/scores"]
    order = np.argsort(-scores, kind="stable")[:40]  # in chunks the reference gives 40 boxes each, ours 40 in all
    np.testing.assert_allclose(found["scores"], scores[order], atol=1e-5)
    rows = list(zip(found["scores"], found["labels"], found["label_names"], found["bboxes"], strict=True))
    names = CASES[name]["results"][0]["label_names"]
    for place in order:
        score, label, box = (reference[f"{name}/0/{what}"][place] for what in ("scores", "labels", "bboxes"))
        if score > scores[order[-1]] + 1e-6:  # of those equal to the last one, which is kept is chance
            assert any(
                other == label
                and cleaned(word) == cleaned(names[place])
                and abs(near - score) < 1e-5
                and np.abs(box - found_box).max() < 2e-3
                for near, other, word, found_box in rows
            ), (score, label, names[place], box)
