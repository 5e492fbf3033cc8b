"""A person audits 30 photos in the review page by keyboard, and the command says how good the labels are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from formats.label_map import write_label_map
from formats.odvg import read_odvg, write_odvg
from formats.record import Instance, Record
from grounding_model.glyphs import write_scenes
from tests.chromium import chromium_page, find_chromium

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium"),
]
ROOT = Path(__file__).parent.parent


def text(element: str) -> str:
    return f"document.getElementById({json.dumps(element)}).textContent"


def test_thirty_photos_are_audited_by_keyboard(tmp_path: Path) -> None:
    write_scenes(tmp_path, "source", count=36, seed=0, labelled=False)
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    lines = [  # every third label is of nothing
        Record(name, 160, 160, (Instance((20.0, 20.0, 90.0, 90.0), 0, "cat", 0.4 if index % 3 == 0 else 0.9),))
        for index, name in enumerate(names)
    ]
    labels = tmp_path / "x_od_v1.json"
    write_odvg(labels, lines)
    write_label_map(tmp_path / "x_label_map.json", {0: "cat"})
    command = [sys.executable, "-m", "flows.cli", "audit", str(labels), "-n", "30", "--port", "0", "--no-open"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    audit = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
    try:
        assert audit.stdout is not None
        address = next(line for line in audit.stdout if "http://" in line).split("http://")[1].split()[0]
        with chromium_page(find_chromium() or "", tmp_path / "profile") as page:
            page.open(f"http://{address}")
            for number, record in enumerate(read_odvg(tmp_path / "x_od_v1.audit" / labels.name)):
                page.wait(f"{text('position')} === '{number + 1} / 30'")
                page.wait("document.getElementById('picture').naturalWidth > 0")
                if (record.instances or ())[0].score == 0.4:
                    page.press("Tab")
                    page.press("x")
                page.press("Enter")
                page.wait(f"{text('progress')}.startsWith('{number + 1} of 30')")
        audit.send_signal(signal.SIGINT)
        told, _ = audit.communicate(timeout=60)
    finally:
        audit.kill()
    assert audit.returncode == 0
    assert "30 reviewed images of 36" in told
    report = json.loads((tmp_path / "x_od_v1.audit" / "report.json").read_text())
    assert report["precision"]["low"] < 2 / 3 < report["precision"]["high"]
    assert report["precision"]["images"] == report["reviews"] == 30
    assert report["recall"]["value"] == 1.0
