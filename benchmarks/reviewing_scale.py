"""What a long label file costs to review: opening it, answering a key, saving a change.

    python benchmarks/reviewing_scale.py LINES FOLDER      e.g. 1000000 /tmp/lines

Writes FOLDER/x_od_v1.json of so many lines of one to eight boxes, serves it as `groundhog browse serve` does, and asks
what the page asks. Memory is the largest resident set of the server's process.
"""

from __future__ import annotations

import http.client
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).parent.parent
TRIES = 30


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


class Server:
    """The real command in its own process."""

    def __init__(self, folder: Path) -> None:
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
        ]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        address = next(line.split()[2] for line in self.process.stdout if line.startswith("review at"))
        parts = urlsplit(address)
        self._path, self._connection = parts.path, http.client.HTTPConnection(parts.hostname or "", parts.port or 0)

    def ask(self, path: str, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST" if body is not None else "GET", self._path + path, json.dumps(body), headers)
        return json.loads(self._connection.getresponse().read())

    def megabytes(self) -> float:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


def milliseconds(act: Callable[[int], Any], tries: int = TRIES) -> str:
    times = []
    for number in range(tries):
        start = time.perf_counter()
        act(number)
        times.append(1000 * (time.perf_counter() - start))
    return f"{statistics.median(times):7.1f} ms, at most {max(times):7.1f} ms"


def main() -> None:
    count, folder = int(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*x_od*"):
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
        given = {key: line[key] for key in ("number", "revision", "boxes")}
        server.ask("lines", {"changes": [{**given, "state": "accepted", "phrases": []}]})

    print("while the lines are read: another image", milliseconds(show))
    while overview["known"] < overview["total"]:
        time.sleep(0.2)
        overview = server.ask("progress")
    print(f"all lines read after {time.perf_counter() - start:.1f} s")
    print("another image            ", milliseconds(show))
    print("a change                 ", milliseconds(change))
    print("the next one to review   ", milliseconds(lambda number: server.ask(f"views/{view}/open?after={number}")))
    query = {"label": 3, "low": 0.5, "order": "uncertain"}
    print("a filter, most uncertain ", milliseconds(lambda number: server.ask("views", query), 5))
    print(f"memory {server.megabytes():.0f} MB")
    server.close()


if __name__ == "__main__":
    main()
