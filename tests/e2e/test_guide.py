"""The README's and the guide's Python runs as it stands, each page as one program, on one platform.

The fences of a page follow one another like the cells of a notebook. "```python notest" marks one that shows
something which can't run here (a service of somebody else's, a call that never returns).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repo.tree import documents, read

FENCE = re.compile(r"^```python(?P<info>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [p for p in documents() if p == "README.md" or p.startswith("docs/guide/")]


def program(text: str) -> str:
    """Return a page's runnable fences as one program, on the lines that they have in the page."""
    lines = [""] * (text.count("\n") + 1)
    for fence in FENCE.finditer(text):
        if "notest" not in fence["info"].split():
            first = text.count("\n", 0, fence.start("code"))
            code = fence["code"].splitlines()
            lines[first : first + len(code)] = code
    return "\n".join(lines).rstrip() + "\n"


@pytest.mark.e2e
@pytest.mark.parametrize("page", [p for p in PAGES if program(read(p)).strip()])
def test_the_snippets_of_a_page_run(page: str, platform, tmp_path: Path) -> None:
    path = tmp_path / f"{Path(page).stem.lower().replace('-', '_')}.py"
    path.write_text(program(read(page)))
    done = subprocess.run(
        [sys.executable, str(path)],
        env=platform.env(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{page}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"


def test_fences_keep_their_lines_and_can_be_left_out() -> None:
    page = (
        "# P\n```python\na = 1\n```\n```python notest\nb()\n```\n```sh\nc\n```\n```python\nd\n```\n"
    )
    assert program(page) == "\n\na = 1\n" + "\n" * 8 + "d\n"
