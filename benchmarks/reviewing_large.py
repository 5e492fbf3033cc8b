"""Time to show a picture of 13,000 x 13,000 pixels in the review page: the whole, a part at full resolution, 200 parts
at once.

PYTHONPATH=. python benchmarks/reviewing_large.py FOLDER      e.g. /tmp/large
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image, ImageDraw

from formats.odvg import write_odvg
from formats.record import Instance, Record

ROOT = Path(__file__).parent.parent
SIDE = 13_000
AT_ONCE = 200


def write_data(folder: Path) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (SIDE, SIDE), (90, 120, 150))
    draw = ImageDraw.Draw(picture)
    for at in range(0, SIDE, 500):
        draw.text((at, at), f"{at}", fill="white")
    picture.save(folder / "images" / "large.png")
    write_odvg(
        folder / "x_od_v1.json", [Record("large.png", SIDE, SIDE, (Instance((60, 60, 900, 900), 0, "cat", 0.5),))]
    )


def main(folder: Path) -> None:
    write_data(folder)
    command = [sys.executable, "-m", "browse", "serve", str(folder), "x_od_v1.json", "images", "--no-open"]
    server = subprocess.Popen([*command, "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address = urlsplit(next(line.split()[2] for line in server.stdout if line.startswith("review at")))

    def ask(path: str) -> float:
        start = time.perf_counter()
        connection = http.client.HTTPConnection(address.hostname or "", address.port or 0, timeout=600)
        connection.request("GET", address.path + path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        return time.perf_counter() - start

    try:
        print(f"the whole picture, reduced: {ask('images/0'):.1f} s")
        print(f"zoomed to all of it: {ask(f'regions/0?box=0,0,{SIDE},{SIDE}&side=2000'):.1f} s")
        print(f"a part at full resolution: {ask('regions/0?box=5900,5900,6900,6900&side=1000'):.1f} s")
        print(f"another one: {ask('regions/0?box=1900,900,2900,1900&side=1000'):.2f} s")
        start = time.perf_counter()
        parts = [f"regions/0?box={x},{x},{x + 1500},{x + 1500}&side=1500" for x in range(0, 50 * AT_ONCE, 50)]
        with ThreadPoolExecutor(AT_ONCE) as clients:
            list(clients.map(ask, parts))
        print(f"{AT_ONCE} parts at once: {time.perf_counter() - start:.1f} s")
        status = Path(f"/proc/{server.pid}/status").read_text()
        peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
        print(f"memory {peak / 1024:.0f} MB")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
