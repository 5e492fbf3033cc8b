"""Categories of ODinW that are asked for in other words, as the reference asks for some, keep their own names."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from flows.evaluation.benchmarks import OdinwData
from flows.evaluation.config import EvaluateConfig
from flows.evaluation.evaluate import evaluate_benchmark, evaluate_config
from formats.io.errors import InputError
from formats.record import Instance, Record

BOX = [10, 20, 40, 30]
WORDS = {"pothole": {"prefix": "there are some ", "name": "holes", "suffix": " on the road"}}


class Recorder:
    """Finds the first name where the box is. asked: the words of each prompt."""

    def __init__(self):
        self.asked = []

    def predict_each(self, images, prompt, **settings):
        self.asked.append("".join(piece.text for piece in prompt.entries))
        for path in images:
            x, y, width, height = map(float, BOX)
            found = Instance((x, y, x + width, y + height), 0, prompt.labels[0], 0.9)
            yield Record(path.name, 100, 120, (found,))


@pytest.fixture
def split(tmp_path):
    folder = tmp_path / "pothole/valid"
    folder.mkdir(parents=True)
    Image.fromarray(np.full((100, 120, 3), 90, np.uint8)).save(folder / "a.jpg")
    content = {
        "images": [{"id": 0, "file_name": "a.jpg", "width": 120, "height": 100}],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": BOX, "area": 1200, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "pothole"}, {"id": 2, "name": "crack"}],
    }
    (folder / "annotations_without_background.json").write_text(json.dumps(content))
    (tmp_path / "model.safetensors").write_bytes(b"")
    return folder


def config(split, work_dir, **more):
    weights = str(split.parent.parent / "model.safetensors")
    return EvaluateConfig(truth=OdinwData(split, **more), work_dir=work_dir, resamples=0, weights=weights)


def test_the_prompt_has_the_replaced_words_and_the_result_the_original_name(split, tmp_path):
    detector = Recorder()
    found = evaluate_benchmark(config(split, tmp_path / "work", prompts=WORDS), detector=detector)
    assert detector.asked == ["there are some holes on the road. crack. "]
    assert found.numbers["ap"] == pytest.approx(1)


def test_other_words_are_another_evaluation(split, tmp_path):
    evaluate_benchmark(config(split, tmp_path / "work"), detector=Recorder())
    with pytest.raises(InputError, match="overwrite"):
        evaluate_benchmark(config(split, tmp_path / "work", prompts=WORDS), detector=Recorder())


def test_words_for_a_category_or_a_set_that_is_not_there_are_refused(split, tmp_path):
    with pytest.raises(InputError, match=r"prompts: .*valid has no hole; did you mean 'pothole'"):
        evaluate_benchmark(config(split, tmp_path / "work", prompts={"hole": {"name": "holes"}}), detector=Recorder())
    (tmp_path / "suite.toml").write_text(
        f'work_dir = "{tmp_path}/suite"\n[truth]\nkind = "odinw_suite"\nroot = "{tmp_path}"\n'
        '[truth.sets]\npothole = "pothole/valid"\n[truth.prompts.potholes]\npothole = {name = "holes"}\n'
    )
    with pytest.raises(InputError, match=r"truth.prompts: no set is called potholes"):
        evaluate_config(tmp_path / "suite.toml")
