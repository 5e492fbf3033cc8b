"""CPU seconds of one 640 x 640 image on one core: the full-size Swin-T model in PyTorch, students in ONNX Runtime.

    OMP_NUM_THREADS=1 python benchmarks/student_speed.py rtdetrv2-nano

Weights are random, which does not affect the time. Medians of three; CPU seconds hardly depend on the machine's load.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch

from grounding_model.detector import Detector
from grounding_model.glyphs.tokenizer import glyph_tokenizer
from grounding_model.model.config import SWIN_T
from grounding_model.model.grounding import GroundingModel
from grounding_model.students.build import start_student
from grounding_model.students.config import FromStudent
from grounding_model.students.export import export_onnx
from grounding_model.students.onnx_detector import OnnxSession

NAMES = ("cat", "dog", "bird")
SIDE = 640


def seconds(work: Callable[[], object]) -> float:
    work()
    taken = []
    for _ in range(3):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return median(taken)


def main() -> None:
    torch.set_num_threads(1)
    image = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    teacher = Detector(GroundingModel(replace(SWIN_T, image_scale=(SIDE, SIDE))), glyph_tokenizer())
    of_teacher = seconds(lambda: teacher.predict([image], list(NAMES)))
    print(f"Swin-T, PyTorch: {of_teacher:.3f} s", flush=True)
    for name in sys.argv[1:]:
        student = start_student(FromStudent(name, image_size=SIDE), NAMES).eval()
        with TemporaryDirectory() as folder:
            path = Path(folder) / "student.onnx"
            export_onnx(path, student)
            session = OnnxSession(path, threads=1)
            taken = seconds(lambda session=session: session(image[None]))
            size = path.stat().st_size / 1e6
        print(f"{name}, ONNX Runtime: {taken:.3f} s, {of_teacher / taken:.1f} x, {size:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
