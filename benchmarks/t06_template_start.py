"""T6: a start from a template, as the worker sees it (asked → the runner says hello), in the same run.

Peers: `crun run /bin/true`, and importing torch afresh in a plain start (`--torch`, which builds an image with it).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request

from benchmarks.harness import (
    ROUNDS,
    a_platform,
    a_process,
    alternate,
    an_app,
    show,
    verdict,
)

AGAINST_CRUN = 1.5
AGAINST_IMPORT = 1 / 50
CRUN = "crun run /bin/true"
IMPORT = "import torch, afresh"
APP = """
from glowplug import Image, endpoint

@endpoint(cpu=0.1, keep_warm_seconds=0)
def small() -> str:
    return "hello"
"""
TORCH = """
with_torch = Image(python_packages=["%s"])
with with_torch.imports():
    import torch

@endpoint(cpu=0.1, keep_warm_seconds=0, image=with_torch)
def large() -> str:
    return torch.__version__

@endpoint(cpu=0.1, keep_warm_seconds=0, image=with_torch, checkpoint_enabled=False)
def afresh() -> str:
    return torch.__version__
"""
MADE_S = 60.0
FORKED_S = 0.2  # a boot that takes longer than half of this was no fork
PAUSE_S = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--torch",
        nargs="?",
        const="torch",
        default="",
        metavar="REQUIREMENT",
        help="with an image of it",
    )
    options = parser.parse_args()
    if shutil.which("crun") is None or os.geteuid() != 0:
        return verdict("a start from a template against crun", None, {})
    names = ["small", "large"] if options.torch else ["small"]
    file = an_app(APP + (TORCH % options.torch if options.torch else ""))
    with (
        a_platform() as (url, token),
        a_process(sys.executable, "-m", "benchmarks.peers.crun_true") as crun,
    ):
        starts = Starts(url, token)
        for name in names:
            deploy = [sys.executable, "-m", "glowplug.cli.main", "deploy", f"{file}:{name}"]
            subprocess.run(deploy, check=True, stdout=subprocess.DEVNULL)
            starts.until_forked(name)
        sides = {name: lambda name=name: [starts.one(name) for _ in range(5)] for name in names}
        sides[CRUN] = lambda: [asked(crun, 1) for _ in range(5)]
        if options.torch:
            deploy = [sys.executable, "-m", "glowplug.cli.main", "deploy", f"{file}:afresh"]
            subprocess.run(deploy, check=True, stdout=subprocess.DEVNULL)
            sides[IMPORT] = lambda: [starts.one("afresh", "import")]
        found = alternate(sides, 1 if options.quick else options.rounds)
    show(found, CRUN)
    failed = 0
    for name in names:
        ratio = found[name].p50 / found[CRUN].p50
        failed |= verdict(
            f"{name}: at most {AGAINST_CRUN} times {CRUN}",
            ratio <= AGAINST_CRUN,
            {"ratio": round(ratio, 2), "p50_ms": round(found[name].p50 * 1000, 1)},
        )
    if IMPORT in found:
        share = found["large"].p50 / found[IMPORT].p50
        failed |= verdict(
            f"at most 1/50 of {IMPORT}", share <= AGAINST_IMPORT, {"1/": round(1 / share)}
        )
    return failed


def asked(peer: subprocess.Popen[str], count: int) -> float:
    """Have a peer run so many; return the seconds it took."""
    assert peer.stdin is not None
    assert peer.stdout is not None
    peer.stdin.write(f"{count}\n")
    peer.stdin.flush()
    return float(peer.stdout.readline())


class Starts:
    """Cold calls, and how long their containers took to boot."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def one(self, name: str, phase: str = "boot") -> float:
        """Call at zero containers; return a phase's seconds: of "boot", from the worker's start to the hello."""
        self.await_none()
        trace = os.urandom(16).hex()
        self._ask(f"/endpoint/{name}", trace)
        while True:
            spans = self._ask(f"/api/v1/traces/{trace}").get("spans", [])
            for span in spans:
                if span["name"] == phase:
                    return float(span["end_at"] - span["start_at"])
            time.sleep(PAUSE_S)

    def await_none(self) -> None:
        """Return when no container lives."""
        while self._ask("/api/v1/containers")["containers"]:
            time.sleep(PAUSE_S)

    def until_forked(self, name: str) -> None:
        """Call until starts are forks."""
        give_up_at = time.monotonic() + MADE_S
        while self.one(name) > FORKED_S / 2 and time.monotonic() < give_up_at:
            time.sleep(PAUSE_S)

    def _ask(self, path: str, trace: str = "") -> dict:  # type: ignore[type-arg]
        headers = dict(self._headers)
        if trace:
            headers["traceparent"] = f"00-{trace}-{os.urandom(8).hex()}-01"
        request = urllib.request.Request(self._url + path, b"{}" if trace else None, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError:
            return {}
        return found if isinstance(found, dict) else {}


if __name__ == "__main__":
    sys.exit(main())
