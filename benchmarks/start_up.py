"""What a command costs before it does anything: CPU seconds of user and system of a process of its own.

    OMP_NUM_THREADS=1 python benchmarks/start_up.py [--rounds 3] [--keep]

Commands are given files that are not there, or answer at once, so what counts is what they import. They take turns;
medians. `import torch` alone is the floor of those that need it, and stands beside them. The goals are 3 s for those
that need torch and 0.5 s for the others; what is above is marked.

The last seconds, from start_up.json, are printed beside the new ones; --keep writes the new ones there.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from results import arguments, beside, finish, last_ratios, table

ROOT = Path(__file__).parent.parent
PICTURE = "docs/images/inference-cat.png"
LABELS = "tests/kept/labelling/data/cats_od_v1.json"
FLOOR = "import torch"
WITH_TORCH = (
    "self-train nowhere.toml",
    "distill nowhere.json nowhere",
    "train nowhere.toml",
    "evaluate nowhere.toml",
    "quality nowhere.toml",
    "infer nowhere.json nowhere {out}",
    "weights inspect glyph-tiny",
    f"detect {PICTURE} --texts cat -c --out-dir {{out}}",
)
WITHOUT = (
    "--help",
    "convert --help",
    "weights list",
    "init cats --images docs/images --categories cat --config-dir {out}/{turn}",
    f"browse tests/kept/labelling {Path(LABELS).relative_to('tests/kept/labelling')} images -o {{out}} --not-show",
    "rounds status nowhere",
    "rounds lineage nowhere.json",
    f"stats {LABELS}",
    f"check {LABELS}",
    f"convert odvg coco {LABELS} {{out}}/coco.json",
    f"publish {LABELS} {{out}}/published --images docs/images",
    f"audit {LABELS} --report",
    f"suspects {LABELS} --work-dir nowhere",
    f"agreement {LABELS} {LABELS}",
    "evaluate compare nowhere nowhere",
    "select nowhere --count 3 --diverse",
    "filter nowhere",
    "bootstrap nowhere {out}/a_od.json --categories cat",
    "reviews import nowhere.json nowhere --from coco",
)
GOALS = {True: 3.0, False: 0.5}


def main() -> None:
    options = arguments(__doc__, __file__, rounds=3).parse_args()
    runs = {FLOOR: ["-c", FLOOR]}
    with tempfile.TemporaryDirectory() as out:
        for command in (*WITH_TORCH, *WITHOUT):
            runs[command] = ["-m", "flows.cli", *command.split()]
        taken: dict[str, list[float]] = {command: [] for command in runs}
        for turn in range(options.rounds):
            for command, words in runs.items():
                taken[command].append(cpu_of([word.format(out=out, turn=turn) for word in words]))
    new, last = {command: median(seconds) for command, seconds in taken.items()}, last_ratios(__file__)
    rows = [
        (f"`{command}`", beside(seconds, last.get(command)), "above the goal" if above(command, seconds) else "")
        for command, seconds in new.items()
    ]
    print(table(("command", "CPU s", ""), rows), flush=True)
    finish(__file__, last | new, options.keep)


def above(command: str, seconds: float) -> bool:
    return seconds > GOALS[command == FLOOR or command in WITH_TORCH]


def cpu_of(words: list[str]) -> float:
    """CPU seconds of a process, whatever its exit code; a command line that cannot be parsed is no measurement."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if "--help" in done.stderr or "arguments" in done.stderr:
        raise RuntimeError(f"{words}: {done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
