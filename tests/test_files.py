"""A file is there whole or not at all; label maps."""

import errno
import hashlib
import os
import stat

import pytest

from formats import InputError, read_label_map, sha256_of, write_label_map, write_whole
from formats.io.files import write_json, write_whole_folder
from formats.io.locks import temporary_beside
from tests.paths import GOLDEN


def test_content_appears_only_when_the_block_has_ended(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with write_whole(path) as stream:
        stream.write("größe\n")
        assert not path.exists()
    assert path.read_bytes() == "größe\n".encode()
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write_half():
        with write_whole(path, "wb") as stream:
            stream.write(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_link_keeps_pointing_where_it_did(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with write_whole(tmp_path / "link") as stream:
        stream.write("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


def test_a_file_is_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    with write_whole(tmp_path / "whole"):
        pass
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "whole")}
    assert len(modes) == 1


def test_a_full_disk_is_named_even_if_a_library_words_it_differently(tmp_path):
    path = tmp_path / "a.pt"

    def save():
        with write_whole(path, "wb"):
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            except OSError:
                raise RuntimeError("unexpected pos")  # noqa: B904 - as torch.save does

    with pytest.raises(OSError, match="No space left on device") as caught:
        save()
    assert caught.value.filename == str(path)
    assert not os.listdir(tmp_path)


def test_modes_that_read_or_append_are_refused(tmp_path):
    with pytest.raises(ValueError, match="mode 'a'"), write_whole(tmp_path / "a", "a"):
        pass


def test_json_is_laid_out_for_people_and_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"name": "Kätzchen", "boxes": [1]})
    assert path.read_text() == '{\n  "name": "K\\u00e4tzchen",\n  "boxes": [\n    1\n  ]\n}\n'
    write_json(path, {"name": "Kätzchen"}, indent=None, ensure_ascii=False)
    assert path.read_text(encoding="utf-8") == '{"name": "Kätzchen"}\n'
    with pytest.raises(TypeError):
        write_json(path, {"name": path})
    assert path.read_text(encoding="utf-8") == '{"name": "Kätzchen"}\n'
    write_json(path, path, default=str)
    assert os.listdir(tmp_path) == ["a.json"]


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_label_map_reads_back_in_the_order_of_its_labels(tmp_path):
    path = tmp_path / "map.json"
    write_label_map(path, {10: "Käfer", 2: "dog/puppy"})
    assert list(read_label_map(path).items()) == [(2, "dog/puppy"), (10, "Käfer")]
    assert read_label_map(GOLDEN / "data/label_map.json") == {0: "cat", 1: "dog/puppy", 2: "traffic_light"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('["cat"]', "contains a JSON list"),
        ('{"cat": 0}', "'cat' is not a whole number"),
        ('{"-1": "cat"}', "'-1' is not a whole number"),
        ('{"0": 1}', "label 0 has the name 1"),
        ('{"0": " "}', "label 0 has the name"),
        ('{"0": "cat", "0": "dog"}', "is listed twice"),
        ('{"0": "cat", "00": "dog"}', "is listed twice"),
        ("{", "is not JSON"),
    ],
)
def test_what_is_no_label_map_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "map.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_label_map(path)
    assert str(path) in str(caught.value)


def test_a_missing_label_map_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: does not exist"):
        read_label_map(tmp_path / "none.json")


def test_what_a_killed_process_left_of_a_folder_is_removed_by_the_next(tmp_path):
    left, other = (temporary_beside(tmp_path / name) for name in ("out", "out2"))
    (left / "images").mkdir(parents=True)
    other.mkdir()
    with write_whole_folder(tmp_path / "out") as folder:
        assert not left.exists()
        with write_whole_folder(tmp_path / "out"):
            assert folder.is_dir()  # its process is alive
        (tmp_path / "out").rmdir()
    assert other.exists()
