"""`python -m images`: ten images, every method; what is done already is not done again."""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from images.campaign import METHODS, clear, try_one
from images.recipes import RECIPES, Recipe
from images.workshop import Workshop, lacking, timing
from tests.support.real_registry import open_registry


def main() -> int:
    """Run; return 1 if any image differed or failed."""
    options = _options()
    if not options.totals:
        if reason := lacking("debootstrap", "pip", "npm"):
            print(f"skipped: {reason}")
            return 0
        shop = Workshop(options.workshop)
        done = {(line["image"], line["method"]) for line in _lines(options.results) if line["good"]}
        for recipe in RECIPES:
            if recipe.name not in options.images:
                continue
            methods = [each for each in options.methods if (recipe.name, each) not in done]
            if methods:
                _one(shop, recipe, methods, options)
    return _totals(options)


def _one(
    shop: Workshop, recipe: Recipe, methods: Sequence[str], options: argparse.Namespace
) -> None:
    """Make an image, once, and bring it through the platform with each method."""
    made: dict[str, Any] = {}
    try:
        if not shop.has(recipe.name):
            with timing(made, "made_s"):
                if not shop.made(recipe.name):
                    recipe.make(shop, recipe.name)
                shop.export(recipe.name)
    except Exception as error:  # noqa: BLE001 - an image that can't be made is a result
        _note(options, {"image": recipe.name, "method": "", "good": False, "error": str(error)})
        return
    with open_registry(shop.root / "registry" / recipe.name) as host:
        for method in methods:
            directory = Path(
                tempfile.mkdtemp(prefix=f"glowplug-images-{recipe.name}-", dir="/var/tmp")
            )
            directory.chmod(0o755)
            try:
                result = try_one(shop, recipe, host, method, directory / "data")
            except Exception as error:  # noqa: BLE001 - told, and the next one is tried
                traceback.print_exc()
                result = {
                    "image": recipe.name,
                    "method": method,
                    "good": False,
                    "error": str(error),
                }
            _note(options, {**result, **made, "commit": _commit()})
            if result["good"] or not options.keep:
                clear(directory)
            else:
                print(f"evidence: {directory}", flush=True)
    clear(shop.root / "registry" / recipe.name)


def _note(options: argparse.Namespace, result: dict[str, Any]) -> None:
    with options.results.open("a") as file:
        file.write(json.dumps(result) + "\n")
    print(json.dumps(result, indent=1), flush=True)


def _lines(results: Path) -> list[dict[str, Any]]:
    with contextlib.suppress(FileNotFoundError):
        return [json.loads(line) for line in results.read_text().splitlines()]
    return []


def _totals(options: argparse.Namespace) -> int:
    """Print the table of the last result of each; return 1 if one is not good."""
    last = {(line["image"], line["method"]): line for line in _lines(options.results)}
    print("| image | method | paths | MiB | first start, s | second | differences |")
    print("|---|---|---|---|---|---|---|")
    for recipe in RECIPES:
        for method in METHODS:
            line = last.get((recipe.name, method))
            if line is None:
                continue
            if "error" in line:
                why = " ".join(line["error"].split())[:120]
                print(f"| {recipe.name}: {recipe.about} | {method} | | | | | failed: {why} |")
                continue
            print(
                f"| {recipe.name}: {recipe.about} | {method} | {line['entries']:,} | {line['bytes'] >> 20:,} "
                f"| {line['start_s']} | {line['second_start_s']} | {line['differ_total']} |"
            )
    wanted = {(name, method) for name in options.images for method in options.methods}
    missing = sorted(wanted - last.keys())
    if missing:
        print(f"not tried yet: {missing}")
    return 0 if all(line["good"] for line in last.values()) and not missing else 1


def _commit() -> str:
    asked = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="images", description="Real images, the whole way.")
    names = ",".join(recipe.name for recipe in RECIPES)
    parser.add_argument("--images", default=names, help=f"of {names}")
    parser.add_argument("--methods", default=",".join(METHODS), help="ways to mount")
    parser.add_argument("--workshop", type=Path, default=Path("/var/tmp/glowplug-images"))
    parser.add_argument("--results", type=Path, default=Path("images-results.jsonl"))
    parser.add_argument("--totals", action="store_true", help="only print the table")
    parser.add_argument("--keep", action="store_true", help="keep what a failure left")
    options = parser.parse_args()
    options.images = options.images.split(",")
    options.methods = options.methods.split(",")
    if unknown := set(options.images) - {recipe.name for recipe in RECIPES}:
        parser.error(f"--images: {', '.join(sorted(unknown))} is none of {names}")
    if unknown := set(options.methods) - set(METHODS):
        parser.error(f"--methods: {', '.join(sorted(unknown))} is none of {', '.join(METHODS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
