"""Looking at labels: what is drawn where, and what the command does with what it cannot draw."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from browse.__main__ import main
from browse.changes import CORRECTNESS, box_changes, draw_changes
from browse.contact_sheet import contact_sheet, side_by_side
from browse.draw import IGNORE_COLOUR, draw_record
from browse.images.colours import colour_of, ink_on
from browse.page_parts import Drawing, gallery, page_table, setting_in_words
from formats.io.errors import InputError
from formats.label_map import write_label_map
from formats.odvg import write_odvg
from formats.record import PLACEHOLDER_BOX, Instance, Record, Region


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def scene(*instances: Instance, height: int = 500, width: int = 600) -> Record:
    return Record("a.png", height, width, instances)


def has(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == np.array(colour)).all(axis=-1).any())


def test_a_box_is_outlined_in_the_colour_of_its_label_and_nothing_else_changes_far_away() -> None:
    drawn = draw_record(grey(500, 600), scene(Instance((100, 200, 300, 400), 3, "cat", 0.9)))
    assert drawn.shape == (500, 600, 3)
    assert tuple(drawn[300, 100]) == colour_of(3)
    assert tuple(drawn[300, 299]) == colour_of(3)  # x2 is exclusive
    assert (drawn[450:, 400:] == 128).all()


def test_colours_of_labels_differ_and_stay() -> None:
    colours = [colour_of(label) for label in range(80)]
    assert len(set(colours)) == 80
    assert colours == [colour_of(label) for label in range(80)]


def test_small_pictures_are_enlarged_by_a_whole_number_and_boxes_with_them() -> None:
    drawn = draw_record(grey(160, 160), scene(Instance((20, 60, 80, 120), 0, "cat"), height=160, width=160))
    assert drawn.shape == (480, 480, 3)
    assert tuple(drawn[90 * 3, 20 * 3]) == colour_of(0)


def test_a_reduced_copy_has_its_boxes_in_the_right_place() -> None:
    drawn = draw_record(grey(500, 600), scene(Instance((1000, 2000, 3000, 4000), 0, "cat"), height=5000, width=6000))
    assert tuple(drawn[300, 100]) == colour_of(0)


@pytest.mark.parametrize("box", [(0, 0, 600, 500), (-50, -50, 20, 20), (590, 490, 700, 700), (700, 700, 800, 800)])
def test_tags_and_boxes_at_and_beyond_the_border_are_drawn_inside(box: tuple[float, float, float, float]) -> None:
    assert draw_record(grey(500, 600), scene(Instance(box, 0, "a long category name", 1.0))).shape == (500, 600, 3)


def test_tags_do_not_cover_one_another() -> None:
    one = Instance((200, 200, 300, 300), 0, "first", 0.5)
    other = Instance((202, 201, 301, 299), 1, "second", 0.5)
    both = draw_record(grey(500, 600), scene(one, other))
    for instance in (one, other):  # a covered tag would lose a good part of its paper
        alone = draw_record(grey(500, 600), scene(instance))
        assert area_near(both, colour_of(instance.label)) > 0.6 * area_near(alone, colour_of(instance.label))


def area_near(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((abs(picture.astype(int) - np.array(colour)).max(axis=-1) < 25).sum())


def test_a_box_that_training_ignores_is_dashed_and_grey() -> None:
    drawn = draw_record(grey(500, 600), scene(Instance((100, 200, 300, 400), 3, "cat", ignore=True)))
    assert has(drawn, IGNORE_COLOUR)
    assert not has(drawn, colour_of(3))
    column = (drawn[205:395, 100] == np.array(IGNORE_COLOUR)).all(axis=-1)
    assert column.any()
    assert not column.all()


def test_palettes() -> None:
    instances = (Instance((10, 10, 100, 100), 0, "cat"), Instance((200, 200, 300, 300), 0, "cat"))
    assert has(draw_record(grey(500, 600), scene(*instances), palette="#123456"), (0x12, 0x34, 0x56))
    random = draw_record(grey(500, 600), scene(*instances), palette="random")
    assert (random == draw_record(grey(500, 600), scene(*instances), palette="random")).all()
    assert tuple(random[50, 10]) != tuple(random[250, 200])
    with pytest.raises(InputError, match="palette"):
        draw_record(grey(500, 600), scene(), palette="no such colour")


CAPTION = "a red cat beside two umbrellas, and a very long sentence after it so that it has to be wrapped into rows"


def test_a_caption_is_drawn_below_with_its_phrases_in_the_colours_of_their_boxes() -> None:
    regions = (
        Region(((50, 50, 150, 150),), ("a red cat",), ((0, 9),), (0.9,)),
        Region((PLACEHOLDER_BOX,), ("two umbrellas",), ((17, 30),)),
    )
    drawn = draw_record(grey(500, 600), Record("a.png", 500, 600, caption=CAPTION, regions=regions))
    assert drawn.shape[0] > 560
    assert drawn.shape[1] == 600
    assert has(drawn[500:], colour_of(0))
    assert not has(drawn[500:], colour_of(1))  # nobody has found umbrellas yet: grey paper
    assert (drawn[:8, :8] == 128).all()  # the placeholder is no box


@pytest.mark.parametrize("caption", ["", "x" * 400, "Bäume, 猫 und\nЁжик   ", "a b c " * 200, "e\u0301 👍"])
def test_every_caption_can_be_drawn(caption: str) -> None:
    regions = (Region(((1, 1, 50, 50),), ("elsewhere",)),)
    assert draw_record(grey(300, 200), Record("a.png", 300, 200, caption=caption, regions=regions)).shape[0] > 300


def test_nothing_to_draw_leaves_the_picture_alone() -> None:
    for instances in (None, ()):
        assert (draw_record(grey(500, 600), Record("a.png", 500, 600, instances)) == 128).all()


def test_text_has_contrast_with_its_background() -> None:
    assert ink_on((255, 200, 0)) == (0, 0, 0)
    assert ink_on((20, 20, 120)) == (255, 255, 255)


def test_a_contact_sheet_holds_every_picture() -> None:
    pictures = [np.full((40 + 10 * index, 60, 3), 10 * index, np.uint8) for index in range(5)]
    sheet = contact_sheet(pictures, columns=2, cell=(60, 100))
    assert all(has(sheet, (10 * index,) * 3) for index in range(5))
    assert contact_sheet([]).shape == (1, 1, 3)
    assert max(contact_sheet([grey(4000, 3000)], cell=(100, 100)).shape[:2]) == 100
    assert side_by_side(grey(100, 150), grey(100, 150)).shape[1] >= 300


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "images" / "deep").mkdir(parents=True)
    records = []
    for name in ("a.png", "deep/b.jpg", "c.png"):
        Image.fromarray(grey(100, 120)).save(tmp_path / "images" / name)
        records.append(Record(name, 100, 120, (Instance((10, 10, 50, 60), 0, "cat", 0.8),)))
    records.append(Record("deep/b.jpg", 100, 120, caption="a cat", regions=()))
    write_odvg(tmp_path / "x_od_v1.json", records)
    write_label_map(tmp_path / "x_label_map.json", {0: "kitten"})
    return tmp_path


def run(data: Path, *options: str) -> int:
    return main([str(data), "x_od_v1.json", "images", *options])


def test_the_command_draws_every_line_to_its_place(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data / "seen"
    assert run(data, "-m", "x_label_map.json", "-o", str(out), "--not-show") == 0
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*"))
    assert written == ["a.png", "c.png", "contact-sheets/001.jpg", "deep/b-2.jpg", "deep/b.jpg", "index.html"]
    assert "4 drawn, 0 not drawn" in capsys.readouterr().out


def test_what_cannot_be_drawn_is_named_and_ends_nothing(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "images" / "a.png").write_text("no picture")
    (data / "images" / "deep" / "b.jpg").write_bytes((data / "images" / "deep" / "b.jpg").read_bytes()[:300])
    lines = (data / "x_od_v1.json").read_text().splitlines()
    outside = json.dumps(json.loads(lines[2]) | {"filename": "../../etc/passwd"})
    (data / "x_od_v1.json").write_text("\n".join([*lines[:3], '{"height": 3}', outside]) + "\n")
    assert run(data, "-o", str(data / "seen"), "--not-show") == 0
    printed = capsys.readouterr().out
    assert "1 drawn, 4 not drawn" in printed
    for location in ("a.png", "deep/b.jpg", "x_od_v1.json:4", "../../etc/passwd"):
        assert location in printed


def test_nothing_drawn_at_all_is_a_failure(data: Path) -> None:
    for name in ("a.png", "c.png", "deep/b.jpg"):
        (data / "images" / name).unlink()
    assert run(data, "-o", str(data / "seen"), "--not-show") == 1


def test_a_file_in_place_of_the_folder_is_reported_once(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "seen").write_text("a note")
    assert run(data, "-o", str(data / "seen"), "--not-show") == 2
    assert "is a file" in capsys.readouterr().err


def test_no_drawing_replaces_an_image(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = data / "images"
    before = {path: path.read_bytes() for path in images.rglob("*") if path.is_file()}
    (data / "link").symlink_to(images)
    for folder in (images, data / "link"):
        assert run(data, "-o", str(folder), "--not-show") == 2
        assert "would replace the image" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in images.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("content", ["", "{", '{"0": "cat"}', "[1, 2]"])
def test_what_is_no_label_file_is_not_compared_with(
    data: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "other.json").write_text(content)
    assert run(data, "-o", str(data / "out"), "--not-show", "--compare", "other.json") == 2
    assert "other.json: contains no labels; expected an ODVG file about the same images" in capsys.readouterr().err
    assert not (data / "out").exists()


def test_number_and_shuffle(data: Path) -> None:
    assert run(data, "-o", str(data / "first"), "--not-show", "-n", "2") == 0
    assert len(list((data / "first").rglob("*.*"))) == 4  # with index.html and a contact sheet
    for folder in ("one", "two"):
        assert run(data, "-o", str(data / folder), "--not-show", "--shuffle", "-n", "1", "--seed", "3") == 0
    names = [[path.name for path in (data / folder).rglob("*.*")] for folder in ("one", "two")]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--not-show"], "-o DIR"),
        (["-m", "none.json", "-o", "x", "--not-show"], "none.json"),
        (["--palette", "nonsense", "-o", "x", "--not-show"], "palette"),
    ],
)
def test_bad_input_is_said_with_exit_code_2(
    data: Path, options: list[str], named: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    assert run(data, *options) == 2
    assert named in capsys.readouterr().err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems always have a display")
def test_without_a_display_it_says_what_to_do_instead(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert run(data) == 2
    assert "--not-show" in capsys.readouterr().err


def test_python_m_browse_runs(data: Path) -> None:
    command = [sys.executable, "-m", "browse", str(data), "x_od_v1.json", "images", "-o", str(data / "o"), "--not-show"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parent.parent, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert "4 drawn" in done.stdout


def test_the_index_has_every_drawing_and_needs_nothing_from_elsewhere(data: Path) -> None:
    write_odvg(data / "truth.json", [Record("a.png", 100, 120, (Instance((60, 60, 90, 90), 0, "cat"),))])
    out = data / "seen"
    assert run(data, "-m", "x_label_map.json", "-o", str(out), "--not-show", "--compare", "truth.json") == 0
    page = (out / "index.html").read_text()
    assert page.count('class="tile"') == 4
    assert [link for link in ("a.png", "deep/b.jpg", "deep/b-2.jpg", "c.png") if f'href="{link}"' not in page] == []
    assert len(re.findall("</i>1 wrong, <i[^>]*></i>1 missed<", page)) == 1
    assert 'href="contact-sheets/001.jpg"' in page
    assert "--compare truth.json" in page
    assert "groundhog browse serve" in page
    assert "http" not in page.replace('href="http://127.0.0.1:8765/"', "")  # the review page while it runs


def test_file_names_cannot_put_markup_into_the_index(data: Path) -> None:
    name = '"><script>alert(1)</script>.png'
    Image.fromarray(grey(100, 120)).save(data / "images" / name.replace("/", "_"))
    record = Record(name.replace("/", "_"), 100, 120, (Instance((1, 1, 9, 9), 0, "<b>cat</b>", 0.5),))
    write_odvg(data / "x_od_v1.json", [record])
    assert run(data, "-o", str(data / "seen"), "--not-show") == 0
    page = (data / "seen" / "index.html").read_text()
    assert "<script>alert" not in page
    assert "<b>cat" not in page


def test_what_became_of_a_box_is_said_by_its_colour_and_a_word() -> None:
    def record(*instances: Instance) -> Record:
        return Record("a.png", 100, 200, instances)

    truth = record(
        Instance((0, 0, 40, 40), 0, "cat"),
        Instance((60, 0, 99, 40), 0, "cat"),
        Instance((110, 0, 150, 40), 0, "cat"),
        Instance((160, 0, 199, 99), 1, "crowd", ignore=True),
    )
    found = record(
        Instance((2, 2, 40, 44), 0, "cat", 0.9),
        Instance((60, 0, 99, 40), 1, "dog", 0.8),
        Instance((0, 60, 30, 99), 0, "cat", 0.7),
        Instance((165, 0, 199, 99), 0, "cat", 0.6),
    )
    changes = box_changes(found, truth)
    assert changes.ours == ["moved", "relabelled", "gained", "ignored"]
    assert changes.others == ["moved", "relabelled", "lost", "ignored"]
    assert changes.count("gained", "lost", "relabelled") == 3
    drawn = draw_changes(grey(100, 200), found, changes.ours, CORRECTNESS)
    scale = drawn.shape[1] / 200
    for box, change in ((found.instances or ())[0], "same"), ((found.instances or ())[2], "gained"):
        x, y = round(box.box[0] * scale) + 1, round((box.box[1] + box.box[3]) / 2 * scale)
        assert tuple(drawn[y, x].tolist()) == CORRECTNESS[change][1]
    assert box_changes(record(), truth).ours == []
    assert box_changes(found, truth, excused=False).ours[3] == "gained"
    assert box_changes(truth, found, excused=False).ours[3] == "ignored"


def test_a_gallery_has_each_picture_once_and_opens_it_without_a_script() -> None:
    page = gallery([Drawing(grey(9, 9), f"<{name}>", "1 box") for name in "ab"], "seen")
    assert page.count("<img") == 2
    assert 'href="#seen-2"' in page
    assert 'id="seen-2"' in page
    assert "<a>" not in page
    assert "script" not in page


def test_settings_are_said_without_python() -> None:
    @dataclass
    class Kind:
        share: float = 0.5
        of_class: dict[str, float] = field(default_factory=dict)
        kind: str = "mixture"

    assert setting_in_words(Kind()) == "mixture share 0.5"
    assert setting_in_words({"a": True, "b": (1, 2.50)}) == "a on, b 1, 2.5"
    assert setting_in_words(None) == setting_in_words(()) == "none"


def test_pictures_are_found_from_the_current_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("data", "photos"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (600, 500)).save("photos/a.png")
    write_odvg(tmp_path / "data/x_od.json", [scene(Instance((10, 20, 30, 40), 0, "cat"))])
    assert main(["data", "x_od.json", "photos", "-o", "drawn", "--not-show"]) == 0
    assert list(Path("drawn").glob("*a*.*"))


def test_text_is_aligned_left_and_numbers_right() -> None:
    table = page_table(["Labels", "Made by", "Boxes"], [["v1", "pretrained", "1,204"], ["v2", "", "–"]])
    assert '<th class="word">Made by</th><th>Boxes</th>' in table
    assert '<td class="word">pretrained</td><td>1,204</td>' in table
    changes = page_table(["", "v1 to v2"], [["boxes", "12 to 15"], ["images", "+3 %"]])
    assert "<td>12 to 15</td>" in changes
