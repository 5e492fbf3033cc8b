"""The fine-tuning recipes and their forgetting: AP before and after, and for interpolations with the base weights.

    python benchmarks/finetune.py --seeds 0,1,2 [--raccoon data/raccoon] [--out outputs/finetune]

Trains configs/finetune_glyphs.toml once per seed (also the seed of the 144 scenes), and with --raccoon
configs/finetune_raccoon.toml; evaluates on the target and on held-out scenes of all 41 nouns of the glyph world. Prints
Markdown tables, writes finetune.json and one plot per recipe. Resumes when it was interrupted. Test scenes and photos
were not used to choose the recipes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from flows.evaluation.forgetting import ForgettingCurve, Point, Task, mean_curve, measure_forgetting, plot_forgetting
from flows.training.train import train_config
from formats.io.files import write_whole

CONFIGS = Path(__file__).parent.parent / "configs"
BASE = "glyph-tiny"
HELD_OUT = Task(CONFIGS / "evaluate_glyphs.toml", ("truth.count=150",))


def glyphs(seed: int, out: Path) -> ForgettingCurve:
    scenes = [f"seed={seed}", f"datasets.0.seed={seed}"]
    return tuned(CONFIGS / "finetune_glyphs.toml", scenes, Task(CONFIGS / "evaluate_glyphs_cats.toml"), seed, out)


def raccoon(seed: int, out: Path, root: Path) -> ForgettingCurve:
    label_map = f"label_map={root}/raccoon_all_label_map.json"
    places = [f"image_root={root}/images", label_map]
    train = [f"datasets.0.{each}" for each in (*places, f"annotations={root}/raccoon_train_od.json")]
    test = [f"truth.{each}" for each in (*places, f"annotations={root}/raccoon_test_od.json")]
    target = Task(CONFIGS / "evaluate_raccoon.toml", tuple(test))
    return tuned(CONFIGS / "finetune_raccoon.toml", [f"seed={seed}", *train, "validate=[]"], target, seed, out)


def tuned(config: Path, overrides: Sequence[str], target: Task, seed: int, out: Path) -> ForgettingCurve:
    """One recipe with one seed. The base model's measurements are shared by all seeds."""
    weights = train_config(config, [*overrides, f"work_dir={out}/seed-{seed}", "validate_every=0"], resume=True)
    return measure_forgetting(BASE, weights, target, [HELD_OUT], out)


def table(curves: Sequence[ForgettingCurve]) -> str:
    """A table of the values of all seeds and their mean, for every alpha."""
    mean = mean_curve(curves)
    lines = [f"| alpha | {mean.target} | mean | held out: {mean.held_out[0]} | mean |", "|--:|:--|--:|:--|--:|"]
    for index, point in enumerate(mean.points):
        of_seeds = [curve.points[index] for curve in curves]
        cells = [f"{point.alpha:g}", values(of_seeds, lambda p: p.target), f"{point.target:.3f}"]
        lines.append(
            f"| {' | '.join([*cells, values(of_seeds, lambda p: p.held_out_mean), f'{point.held_out_mean:.3f}'])} |"
        )
    lines.append(f"\nrecommended at the mean: alpha {mean.recommended.alpha:g}")
    return "\n".join(lines)


def values(points: Sequence[Point], number: Callable[[Point], float]) -> str:
    return " · ".join(f"{number(point):.3f}" for point in points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--raccoon", type=Path, metavar="DIR", help="photos and files of configs/finetune_raccoon.toml")
    parser.add_argument("--out", type=Path, default=Path("outputs/finetune"))
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    recipes = {"glyphs": glyphs}
    if options.raccoon is not None:
        recipes["raccoon"] = lambda seed, out: raccoon(seed, out, options.raccoon)
    results: dict[str, object] = {"seeds": seeds}
    for name, recipe in recipes.items():
        curves = [recipe(seed, options.out / name) for seed in seeds]
        print(f"{name}, seeds {options.seeds}\n\n{table(curves)}\n", flush=True)
        plot_forgetting(options.out / f"{name}.png", curves, f"{name}: {len(seeds)} seeds and their mean")
        results[name] = {
            "curves": [curve.as_dict() for curve in curves],
            "mean": mean_curve(curves).as_dict(),
            "after": fmean(curve.points[-1].target for curve in curves),
        }
    with write_whole(options.out / "finetune.json") as file:
        json.dump(results, file, indent=2)
        file.write("\n")


if __name__ == "__main__":
    main()
