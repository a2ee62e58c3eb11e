"""T5: a cold call, image local: request → result, against a bare sandboxed interpreter, in the same run.

Peer: bubblewrap with fresh namespaces running `python -I -S -c pass` on the same host base. The promises: from a
template at most 1.3 times that, a plain start at most 4 times.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
import urllib.request

from glowplug_worker.runtime.bwrap import find_binary

from benchmarks.harness import a_platform, alternate, an_app, arguments, show, timed, verdict

PEER = "bwrap python -I -S -c pass"
PROMISES = {"from a template": 1.3, "plainly started": 4.0}
APP = """
from glowplug import endpoint

@endpoint(cpu=0.1, memory=64, keep_warm_seconds=0)
def forked() -> str:
    return "hello"

@endpoint(cpu=0.1, memory=64, keep_warm_seconds=0, checkpoint_enabled=False)
def plain() -> str:
    return "hello"
"""
TEMPLATE_S = 3.0  # what making the template may take, after the second start


def main() -> int:
    options = arguments(__doc__)
    file = an_app(APP)
    with a_platform() as (url, token):
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        for name in ("forked", "plain"):
            deploy = [sys.executable, "-m", "glowplug.cli.main", "deploy", f"{file}:{name}"]
            subprocess.run(deploy, check=True, stdout=subprocess.DEVNULL)

        def post(name: str) -> None:
            request = urllib.request.Request(f"{url}/endpoint/{name}", b"{}", headers)
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert json.load(answer) == "hello"

        def await_zero() -> None:
            request = urllib.request.Request(f"{url}/api/v1/containers", headers=headers)
            for _ in itertools.count():
                with urllib.request.urlopen(request, timeout=10) as answer:
                    if not json.load(answer)["containers"]:
                        return
                time.sleep(0.02)

        def cold(name: str) -> list[float]:
            times = []
            for _ in range(2 if options.quick else 5):
                await_zero()
                times.append(timed(lambda: post(name)))
            return times

        bare = bare_command()

        def theirs() -> list[float]:
            return [timed(lambda: subprocess.run(bare, check=True)) for _ in range(5)]

        for _ in range(2):
            for name in ("forked", "plain"):
                await_zero()
                post(name)
        time.sleep(TEMPLATE_S)
        sides = alternate(
            {
                "from a template": lambda: cold("forked"),
                "plainly started": lambda: cold("plain"),
                PEER: theirs,
            },
            options.rounds,
        )
    show(sides, PEER)
    failed = 0
    for name, promise in PROMISES.items():
        ratio = sides[name].p50 / sides[PEER].p50
        failed |= verdict(
            f"a cold call, {name}, costs at most {promise} times a bare sandboxed interpreter",
            ratio <= promise,
            {"ratio": round(ratio, 2), "p50_ms": round(sides[name].p50 * 1000, 1)},
        )
    return failed


def bare_command() -> list[str]:
    argv = [
        str(find_binary()),
        "--unshare-all",
        "--ro-bind",
        "/",
        "/",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
    ]
    return [
        *argv,
        "--die-with-parent",
        "--new-session",
        sys._base_executable,
        "-I",
        "-S",
        "-c",
        "pass",
    ]


if __name__ == "__main__":
    sys.exit(main())
