"""`python -m faults`: run the campaign in slices, add up, print the totals."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from faults.campaign import Slice, run_slice
from faults.disk import why_not as no_disk
from faults.hosts import why_not
from faults.plan import CLUSTER, DISK, INSIDE, KINDS, MOMENTS, PARTS, SPREAD, make_plan, read_plan
from faults.storage import can_drag

NOT_YET_SHOWN = 20
DEFAULTS = {"brokers": 1, "shards": 1, "kinds": "kill,pause,poison", "link_ms": 0.0}


def main() -> int:
    """Run; return 1 if anything promised did not hold."""
    options = _options()
    results = options.results
    if options.totals:
        return _totals(results)
    failed = 0
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**9)
    ended_by = time.monotonic() + options.minutes * 60
    for turn in range(options.slices):
        left_s = ended_by - time.monotonic()
        if left_s < 60 and turn:
            break
        failed += _one(options, seed + turn, max(60.0, left_s), results)
    return 1 if _totals(results) or failed else 0


def _one(options: argparse.Namespace, seed: int, left_s: float, results: Path) -> int:
    plan = (
        read_plan(options.replay.open())
        if options.replay
        else make_plan(seed, options.kills, brokers=options.brokers, kinds=options.kinds.split(","))
    )
    if options.spread and (reason := why_not()):
        print(f"skipped: {reason}")
        return 0
    again = f"just faults --seed {seed} --kills {options.kills} --tasks {options.tasks}"
    again += "".join(
        f" --{name.replace('_', '-')} {value}"
        for name in ("brokers", "shards", "kinds", "link_ms")
        if (value := getattr(options, name)) != DEFAULTS[name]
    )
    again += " --spread" if options.spread else ""
    print(f"seed {seed}: {again} repeats this slice's choices", flush=True)
    directory = Path(tempfile.mkdtemp(prefix=f"glowplug-faults-{seed}-"))
    asked = Slice(
        seed=seed,
        tasks=options.tasks,
        plan=plan,
        brokers=options.brokers,
        limit_s=left_s,
        link_ms=options.link_ms,
        spread=options.spread,
        shards=options.shards,
    )
    result = asyncio.run(run_slice(asked, directory))
    result |= {"commit": _commit(), "command": again}
    with results.open("a") as file:
        file.write(json.dumps(result) + "\n")
    print(json.dumps(result, indent=1), flush=True)
    good = result["violations_total"] == 0 and result["rested"]
    if good and not options.keep:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        print(f"evidence: {directory} (log.jsonl replays with --replay)", flush=True)
    return 0 if good else 1


def _totals(results: Path) -> int:
    """Print the sums over the results file; return 1 if any slice failed."""
    lines = [json.loads(line) for line in results.open()] if results.exists() else []
    kills: dict[str, int] = {}
    ends: dict[str, int] = {}
    sums: dict[str, Any] = dict.fromkeys(
        ("accepted", "lost", "two outcomes", "calls answered", "kills_total", "faults",
         "violations_total", "left behind", "run more than once", "dead by losses",
         "composed", "events", "due times", "map writes",
         "predecessors not seen", "writes seen", "accepted at once", "seconds"), 0)  # fmt: skip
    kinds: dict[str, int] = {}
    points: set[str] = set()
    for line in lines:
        for key in sums:
            sums[key] += line.get(key, 0)
        for part, count in line["kills"].items():
            kills[part] = kills.get(part, 0) + count
        for state, count in line.get("ends", {}).items():
            ends[state] = ends.get(state, 0) + count
        for kind, count in line.get("kinds", {}).items():
            kinds[kind] = kinds.get(kind, 0) + count
        points |= set(line.get("points", ()))
    possible = {f"{part} @ {moment}" for part in (*PARTS, "broker", *INSIDE) for moment in MOMENTS}
    crash_points = {
        "struck": len(points & possible),
        "of": len(possible),
        "not yet": sorted(possible - points)[:NOT_YET_SHOWN],
    }
    shown = {"slices": len(lines), **sums, "kills": kills, "kinds": kinds, "ends": ends}
    print(json.dumps({**shown, "crash points": crash_points}))
    return 1 if sums["violations_total"] or not all(line["rested"] for line in lines) else 0


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="faults", description="The campaign of faults.")
    parser.add_argument("--minutes", type=float, default=8.0, help="start no fault after this")
    parser.add_argument("--seed", type=int, help="all choices follow from it; default: a fresh one")
    parser.add_argument("--kills", type=int, default=25, help="faults in a slice")
    parser.add_argument("--tasks", type=int, default=10_000, help="durable tasks in a slice")
    parser.add_argument(
        "--slices", type=int, default=1, help="fresh platforms, one after the other"
    )
    parser.add_argument("--brokers", type=int, default=1, choices=(1, 3), help="3: a cluster")
    parser.add_argument("--shards", type=int, default=1, help="shards, a workspace in each")
    parser.add_argument(
        "--kinds", default="kill,pause,poison", help=f"which kinds of faults, of {','.join(KINDS)}"
    )
    parser.add_argument(
        "--spread",
        action="store_true",
        help="three hosts (namespaces; needs root), with --brokers 3",
    )
    parser.add_argument("--link-ms", type=float, default=0.0, help="delay of the broker's link")
    parser.add_argument("--replay", type=Path, help="do the faults of this log")
    parser.add_argument("--results", type=Path, default=Path("faults-results.jsonl"))
    parser.add_argument("--totals", action="store_true", help="only add up the results file")
    parser.add_argument("--keep", action="store_true", help="keep the evidence of good slices")
    options = parser.parse_args()
    kinds = set(options.kinds.split(","))
    if unknown := kinds - set(KINDS):
        parser.error(f"--kinds: {', '.join(sorted(unknown))} is none of {', '.join(KINDS)}")
    if kinds & set(CLUSTER) and options.brokers == 1:
        parser.error(f"--kinds {','.join(CLUSTER)} strike one of three brokers: --brokers 3")
    if kinds & set(SPREAD) and not options.spread:
        parser.error(f"--kinds {','.join(SPREAD)} strike one of three hosts: --brokers 3 --spread")
    if kinds & set(DISK) and (reason := no_disk()):
        parser.error(f"--kinds {','.join(DISK)} strike a disk of one's own: {reason}")
    if "drag" in kinds and not can_drag():
        parser.error("--kinds drag: this kernel lets us slow no disk down (blkio, as root)")
    return options


if __name__ == "__main__":
    sys.exit(main())
