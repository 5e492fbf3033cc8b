"""Time and memory of the review page with a long label file: opening it, responding to a key, saving a change.

    PYTHONPATH=. python benchmarks/reviewing_scale.py LINES FOLDER      e.g. 1000000 /tmp/lines

Writes FOLDER/x_od_v1.json of LINES lines with one to eight boxes, serves it like `groundhog browse serve`, and sends
the requests of the page; then again with other labels to compare with and ten candidates per line. Memory is the
largest sum of the resident sets of the server and its processes.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from formats.candidates import Candidates, ImageCandidates, write_candidates

ROOT = Path(__file__).parent.parent
TRIES = 30
SHARD, CANDIDATES = 1000, 10  # lines of a shard, candidates of a line


def write_lines(path: Path, count: int) -> None:
    chance = random.Random(0)
    with open(path, "w") as file:
        for number in range(count):
            instances = []
            for _ in range(chance.randint(1, 8)):
                x, y, label = chance.uniform(0, 300), chance.uniform(0, 200), chance.randint(0, 9)
                box = [round(side, 2) for side in (x, y, x + chance.uniform(9, 300), y + chance.uniform(9, 200))]
                score = round(chance.uniform(0.3, 1), 6)
                instances.append({"bbox": box, "label": label, "category": f"kind {label}", "score": score})
            line = {"filename": f"{number // 1000:04d}/{number:07d}.jpg", "height": 480, "width": 640}
            file.write(json.dumps({**line, "detection": {"instances": instances}}) + "\n")


def write_others(folder: Path) -> None:
    """FOLDER/other_od.json: the same lines, a tenth of the boxes gone and a third of them moved."""
    chance = random.Random(3)
    with open(folder / "x_od_v1.json") as lines, open(folder / "other_od.json", "w") as file:
        for text in lines:
            line = json.loads(text)
            kept = [each for each in line["detection"]["instances"] if chance.random() < 0.9]
            for each in kept:
                if chance.random() < 0.3:
                    each["bbox"] = [round(side + chance.uniform(-5, 5), 2) for side in each["bbox"]]
            line["detection"]["instances"] = kept
            file.write(json.dumps(line) + "\n")


def write_plan(folder: Path, count: int) -> None:
    """FOLDER/work: ten candidates a line, in shards of a thousand lines."""
    draw = np.random.default_rng(0)
    shards = []
    for index, first in enumerate(range(0, count, SHARD)):
        lines = min(SHARD, count - first)
        corner = draw.uniform(0, 300, (lines, CANDIDATES, 2))
        box = np.concatenate([corner, corner + draw.uniform(9, 200, (lines, CANDIDATES, 2))], axis=2).astype(np.float32)
        region = draw.integers(0, 10, (lines, CANDIDATES), np.int32)
        score = draw.uniform(0.05, 1, (lines, CANDIDATES)).astype(np.float32)
        images = [
            ImageCandidates(number, f"{number // 1000:04d}/{number:07d}.jpg", region[row], box[row], score[row])
            for row, number in enumerate(range(first, first + lines))
        ]
        path = folder / "work" / "candidates" / f"shard-{index:05d}.parquet"
        write_candidates(path, Candidates.of_images(images), "key")
        shards.append({"index": index, "first_line": first, "lines": lines, "offset": 0})
    label_map = {str(label): f"kind {label}" for label in range(10)}
    manifest = {"key": "key", "source": str(folder / "x_od_v1.json"), "label_map": label_map, "shards": shards}
    (folder / "work" / "manifest.json").write_text(json.dumps(manifest))


class Server:
    """The real command in its own process."""

    def __init__(self, folder: Path, *more: str) -> None:
        command = [
            sys.executable,
            "-m",
            "browse",
            "serve",
            str(folder),
            "x_od_v1.json",
            ".",
            "--no-open",
            "--port",
            "0",
            *more,
        ]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        address = next(line.split()[2] for line in self.process.stdout if line.startswith("review at"))
        parts = urlsplit(address)
        self._peak = 0.0
        threading.Thread(target=self._watch, daemon=True).start()
        self._path, self._connection = parts.path, http.client.HTTPConnection(parts.hostname or "", parts.port or 0)

    def ask(self, path: str, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST" if body is not None else "GET", self._path + path, json.dumps(body), headers)
        return json.loads(self._connection.getresponse().read())

    def megabytes(self) -> float:
        own = Path(f"/proc/{self.process.pid}/status").read_text()
        peak = int(next(line for line in own.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024
        return max(peak, self._peak)

    def _watch(self) -> None:
        """The peak of what all of its processes hold, looked at every tenth of a second."""
        page = os.sysconf("SC_PAGE_SIZE") / 2**20
        while self.process.poll() is None:
            with suppress(OSError):  # one of them has just ended
                children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
                held = [Path(f"/proc/{each}/statm").read_text().split()[1] for each in (self.process.pid, *children)]
                self._peak = max(self._peak, page * sum(map(int, held)))
            time.sleep(0.1)

    def processor_milliseconds(self) -> float:
        """Of the server since it began."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return 1000 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


def times_of(act: Callable[[int], Any], tries: int = TRIES) -> list[float]:
    """Milliseconds of each."""
    times = []
    for number in range(tries):
        start = time.perf_counter()
        act(number)
        times.append(1000 * (time.perf_counter() - start))
    return times


def in_words(times: list[float]) -> str:
    return f"{statistics.median(times):7.1f} ms, at most {max(times):7.1f} ms"


def milliseconds(server: Server, act: Callable[[int], Any], tries: int = TRIES) -> str:
    """The time that the page waits, and the server's processor time, which other programs do not lengthen."""
    before = server.processor_milliseconds()
    words = in_words(times_of(act, tries))
    return f"{words}; {(server.processor_milliseconds() - before) / tries:5.1f} ms of the processor"


def main() -> None:
    count, folder = int(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*x_od*"), *folder.glob("other_od*")):
        old.unlink()
    write_lines(folder / "x_od_v1.json", count)
    (folder / "x_label_map.json").write_text(json.dumps({str(label): f"kind {label}" for label in range(10)}))
    start = time.perf_counter()
    server = Server(folder)
    overview = server.ask("overview")
    view = server.ask("views", {})["view"]
    server.ask(f"views/{view}/rows?start=0&count=60")
    server.ask("lines/0")
    print(f"{count} lines: open, first image and list after {time.perf_counter() - start:.1f} s")
    chance = random.Random(1)
    numbers = [chance.randrange(count) for _ in range(TRIES)]

    def show(number: int) -> None:
        server.ask(f"views/{view}/rows?start={numbers[number]}&count=1")
        server.ask(f"lines/{numbers[number]}")
        server.ask(f"views/{view}/rows?start={numbers[number]}&count=60")

    def change(number: int) -> None:
        line = server.ask(f"lines/{numbers[number]}")
        kept = {key: line[key] for key in ("number", "revision", "boxes")}
        server.ask("lines", {"changes": [{**kept, "state": "accepted", "phrases": []}]})

    groups = list[list[float]]()
    while overview["known"] < overview["total"]:
        groups.append(times_of(show))
        overview = server.ask("progress")
    if groups:
        print("while the lines are read: another image", in_words([each for group in groups for each in group]))
        print("  the 30 that other work disturbed least", in_words(min(groups, key=max)))
    print(f"all lines read after {time.perf_counter() - start:.1f} s")
    print("another image            ", milliseconds(server, show))
    print("a change                 ", milliseconds(server, change))
    print(
        "the next one to review   ",
        milliseconds(server, lambda n: server.ask(f"views/{view}/open?after={n}")),
    )
    query = {"label": 3, "low": 0.5, "order": "uncertain"}
    print("a filter, most uncertain ", milliseconds(server, lambda n: server.ask("views", query)))
    print("a search for a file name ", milliseconds(server, lambda n: server.ask("views", {"text": f"{n:04d}"})))
    print("a search that all fit    ", milliseconds(server, lambda n: server.ask("views", {"text": "jpg"})))
    shown = {"view": server.ask("views", {})["view"], "sort": "doubt"}
    crops = [{**shown, "label": label} for label in (*range(10), -1)]
    print("crops of a class         ", milliseconds(server, lambda n: server.ask("crops", crops[n % 10])))
    print("crops of every class     ", milliseconds(server, lambda n: server.ask("crops", crops[-1])))
    print(f"memory {server.megabytes():.0f} MB")
    server.close()
    compare(folder, count, numbers)


def compare(folder: Path, count: int, numbers: list[int]) -> None:
    """The same file with other labels and candidates."""
    write_others(folder)
    write_plan(folder, count)
    start = time.perf_counter()
    server = Server(folder, "--compare", "other_od.json", "--candidates", str(folder / "work"))
    while server.ask("progress")["known"] < count:
        time.sleep(0.2)
    print(f"with other labels: all lines of both read after {time.perf_counter() - start:.1f} s")
    print(
        "while they are compared: another image",
        milliseconds(server, lambda n: server.ask(f"lines/{numbers[n]}")),
    )
    while server.ask("progress")["compared"] < count:
        time.sleep(0.2)
    print(f"all lines compared after {time.perf_counter() - start:.1f} s")
    print("a filter by change       ", milliseconds(server, lambda n: server.ask("views", {"change": "lost"}), 5))
    start = time.perf_counter()
    while (counts := server.ask("counts/3"))["read"] < counts["shards"]:
        time.sleep(0.2)
    print(f"{CANDIDATES * count} candidates counted for every threshold after {time.perf_counter() - start:.1f} s")
    print("counts of a class        ", milliseconds(server, lambda n: server.ask(f"counts/{n % 10}")))
    print(f"memory {server.megabytes():.0f} MB")
    server.close()


if __name__ == "__main__":
    main()
