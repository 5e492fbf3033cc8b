"""Long work says how far it is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli.command import main
from formats.io import progress
from formats.io.progress import LogLines, show_progress

SECONDS = 20.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A step of twenty seconds each time that somebody looks."""
    now = [0.0]

    def tick() -> float:
        now[0] += SECONDS
        return now[0]

    monkeypatch.setattr(progress.time, "monotonic", tick)
    return now


@pytest.mark.usefixtures("clock")
def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(show_progress(range(5), desc="label", unit="image")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err.splitlines() == [
        "label: 2 of 5 images, 20.0 s for each image, 01:00 left",
        "label: 4 of 5 images, 20.0 s for each image, 00:20 left",
        "label: 5 of 5 images, 24.0 s for each image",
    ]


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert sum(show_progress(iter(range(100)), desc="read", unit="record")) == 4950
    with show_progress(total=10, unit="B", desc="x.json") as bar:
        bar.update(10)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("clock")
def test_bytes_and_unknown_totals_are_counted_too(capsys: pytest.CaptureFixture[str]) -> None:
    def parts() -> Iterator[int]:
        yield from (1, 2)

    list(show_progress(parts(), unit="record"))
    with LogLines(total=4_000_000, unit="B", desc="x.json") as bar:
        bar.update(0)
        bar.update(2_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "2 records, 20.0 s for each record"
    assert lines[1].startswith("x.json: 2.00MB of 4.00MB")


@pytest.mark.usefixtures("clock")
def test_work_that_fails_claims_no_end(capsys: pytest.CaptureFixture[str]) -> None:
    def images() -> Iterator[int]:
        yield from (1, 2, 3)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(show_progress(images(), total=9, unit="image"))
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_training_into_a_log_says_what_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    config = tmp_path / "run.toml"
    config.write_text(
        f'work_dir = "{tmp_path}/run"\nsteps = 2\nbatch_size = 2\nlog_every = 1\nworkers = 0\ndevice = "cpu"\n'
        '[start]\nkind = "weights"\nsource = "glyph-tiny"\n[[datasets]]\nkind = "glyphs"\ncount = 2\n'
    )
    assert main(["train", str(config)]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train: ")]
    assert lines[0] == f"train: 2 steps of 2 images on cpu, from 2 images of 1 data set; log: {tmp_path}/run/log.jsonl"
    assert lines[-1].startswith("train: 2 of 2 steps, ")
    assert ", loss " in lines[-1]


def test_a_training_on_images_of_another_size_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though a data worker meets them, in a process of its own."""
    from PIL import Image

    assert main(["glyphs", str(tmp_path / "d"), "--domain", "cats", "--count", "4"]) == 0
    for path in (tmp_path / "d/images").iterdir():
        Image.new("RGB", (80, 80)).save(path)
    config = tmp_path / "run.toml"
    config.write_text(
        f'work_dir = "{tmp_path}/run"\nsteps = 2\nbatch_size = 2\nworkers = 1\n[start]\nkind = "weights"\n'
        f'source = "glyph-tiny"\n[[datasets]]\nkind = "odvg"\nannotations = "{tmp_path}/d/cats_od.json"\n'
        f'image_root = "{tmp_path}/d/images"\n'
    )
    assert main(["train", str(config)]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "4 images in a row are unusable" in error
