"""The same attempts in a container that was forked from a template: it is held no worse than a plain one.

The template's own code ran before, so the attempts are there already when the fork is made. Limits are the
control groups', and are tried where the containers have some (`test_attempts.py`).
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.integration.worker import conftest, test_templates
from tests.integration.worker.test_templates import Containers, digest_of, ways
from tests.security.attempts.inside import ATTEMPTS
from tests.security.ledger import Row
from tests.security.stage import scenery
from tests.support.ordinary import ROOT, UID, find_ordinary

HERE = Path(__file__).parent
rest = conftest.rest
worker = test_templates.worker
PLACE = "forked from a template"
NUMBERS = [
    number
    for number, attempt in enumerate(ATTEMPTS)
    if not attempt.name.startswith("limits:") and not attempt.needs
]
APP = """
import json, os, sys, time
time.sleep(0.3)  # an import that pays
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

def tried(given, numbers):
    sockets = [int(n) for n in os.listdir("/proc/self/fd")
               if os.path.islink("/proc/self/fd/" + n) and os.readlink("/proc/self/fd/" + n).startswith("socket:")]
    given = {**given, "wire": sockets[0] if len(sockets) == 1 else -1, "writable": "/tmp", "disk": "/tmp"}
    os.environ["GIVEN"] = json.dumps(given)
    from attempts.inside import ATTEMPTS, in_a_child
    said = {}
    for number in numbers:
        try:
            said[number] = list(in_a_child(ATTEMPTS[number]))
        except ValueError as error:
            said[number] = ["broken", f"two came back: {error}"]
    return said
"""


async def test_a_forked_container_is_held_like_a_plain_one(
    worker: Any, rest: Any, tmp_path: Path, ledger
):
    source = tmp_path / "hostile"
    await asyncio.to_thread(shutil.copytree, HERE / "attempts", source / "attempts")
    (source / "app.py").write_text(APP)
    worker.workshop.images.sources[digest_of("hostile")] = source
    app = Containers(worker, rest, "hostile")
    first = await app.start("tried")
    await app.made(2)
    forked = await app.start("tried")
    assert ways(worker, first, forked) == ["plain", "template"]
    (tmp_path / "scenery").mkdir()
    with scenery(
        worker.workshop.backend, tmp_path / "scenery", f"glowplug-security-{secrets.token_hex(8)}"
    ) as scene:
        given, _, host, victim = scene
        seen = await app.call(forked, given, NUMBERS)
        changes = host.changes() + victim.health()
    wrong = {}
    for number, (outcome, words) in seen.items():
        attempt = ATTEMPTS[number]
        held = outcome == "held"
        shown = any(row.shown for row in ledger.rows if row.name == attempt.name)
        why = attempt.control or "its control is made with the other backends"
        ledger.rows.append(
            Row(attempt.name.split(":")[0], attempt.name, PLACE, held, shown=shown, why_not=why)
        )
        if not held:
            wrong[attempt.name] = (outcome, words)
    assert wrong == {}
    assert changes == []
    assert len(seen) == len(NUMBERS) > 300


def test_what_is_forked_for_an_ordinary_user_is_held_too():
    """The test above and that of what siblings share, by a worker that has no power over the host."""
    # Not pytest's tmp_path: nobody else may enter that.
    directory = Path(tempfile.mkdtemp(prefix="glowplug-ordinary-"))
    directory.chmod(0o755)
    try:
        found = find_ordinary(directory)
        if isinstance(found, str):
            pytest.skip(found)
        tests = (
            "tests/security/test_forked.py::test_a_forked_container_is_held_like_a_plain_one",
            (
                "tests/integration/worker/test_templates.py::"
                "test_containers_are_forked_with_their_imports_done_and_share_nothing_else"
            ),
            (
                "tests/integration/worker/test_templates.py::"
                "test_code_in_a_template_gets_no_namespaces_uninvited"
            ),
        )
        flags = ("-q", "-rs", "-p", "no:cacheprovider", f"--basetemp={directory}/t")
        done = subprocess.run(
            [found.python, "-m", "pytest", *flags, *tests],
            cwd=ROOT,
            env=found.env,
            user=UID,
            group=UID,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
        )
        if "3 skipped" in done.stdout:  # the nursery says why
            pytest.skip(done.stdout)
        assert "3 passed" in done.stdout, done.stdout + done.stderr
    finally:
        subprocess.run(["rm", "-rf", str(directory)], check=True)
