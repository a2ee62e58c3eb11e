"""What the documents claim is there; what is generated is fresh."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tests.repo import generated
from tests.repo.tree import ROOT, assert_none, documents, read

ENDINGS = r"py|md|toml|txt|conf|yaml|json|Containerfile|sh|template"
PATH = re.compile(rf"`(\.?[\w][\w./-]*(?:/|\.(?:{ENDINGS})))(?:::\w+)?`")
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


def named_paths(text: str) -> set[str]:
    """Return the paths of this repository that a document names in backticks, and its links."""
    in_ticks = {path for path in PATH.findall(text) if "/" in path}
    return in_ticks | set(LINK.findall(text))


@pytest.mark.parametrize("document", documents())
def test_paths_named_in_documents_exist(document: str) -> None:
    folder = (ROOT / document).parent
    near = (ROOT, folder, *folder.glob("glowplug_*"))  # a card may name files of its package
    missing = {
        path
        for path in named_paths(read(document))
        if not any((place / path).exists() for place in near)
    }
    assert_none(missing)


def test_the_search_finds_a_missing_path() -> None:
    text = "See `libs/none.py`, `docs/`, `x/y.py::test_a` and [this](docs/none.md), not [that](http://a/b)."
    assert named_paths(text) == {"libs/none.py", "docs/", "x/y.py", "docs/none.md"}


def test_generated_files_are_fresh() -> None:
    assert_none(f"{path} is stale: run `just docs`" for path in generated.stale())


def test_every_setting_is_documented() -> None:
    assert_none(
        [
            f"{kind.__name__}.{name}"
            for kind in generated.settings_types().values()
            for name in kind.__struct_fields__
            if name not in generated.documented(kind)
            and name not in generated.documented(generated.Settings)
        ]
    )


# -- SPECIFICATION.md ---------------------------------------------------------------------------

PROMISE = re.compile(r"^\| ([A-Z]\d+) \| (.+) \| (.+) \|$", re.MULTILINE)
PROOF = re.compile(r"`((?:tests|benchmarks)/[\w/.-]+)(?:::(\w+))?`")


def unheld(specification: str) -> list[str]:
    """Return the promises that name no existing proof and do not say that they lack one."""
    bad = []
    for number, _, proof in PROMISE.findall(specification):
        proofs = PROOF.findall(proof)
        if not proofs and "unproven" not in proof:
            bad.append(f"{number}: names no test and is not marked unproven")
        bad += [
            f"{number}: {path}::{test} is missing"
            for path, test in proofs
            if not exists(path, test)
        ]
    return bad


def exists(path: str, test: str) -> bool:
    file = ROOT / path
    if not file.exists():
        return False
    if not test:
        return True
    defined = {
        node.name
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    return test in defined


def test_every_promise_names_its_proof() -> None:
    text = read("SPECIFICATION.md")
    numbers = [number for number, _, _ in PROMISE.findall(text)]
    assert len(numbers) > 10
    assert len(numbers) == len(set(numbers))
    assert_none(unheld(text))


def test_a_promise_without_proof_is_noticed() -> None:
    here = "tests/repo/test_documents.py"
    text = (
        f"| S1 | good | `{here}::test_every_promise_names_its_proof` |\n| S2 | open | unproven |\n"
        f"| S3 | bad | trust us |\n| S4 | worse | `{here}::test_of_nothing` |\n"
    )
    assert [line[:2] for line in unheld(text)] == ["S3", "S4"]


def test_what_the_list_of_faults_names_exists() -> None:
    named = PROOF.findall(read("docs/faults.md"))
    assert len(named) > 20
    assert_none([f"{path}::{test}" for path, test in named if not exists(path, test)])


# -- docs/journey.md ----------------------------------------------------------------------------

SHORT_WAY = "services/gateway/glowplug_gateway/links.py"
STATIONS = (
    "services/gateway/glowplug_gateway/http/",
    "services/gateway/glowplug_gateway/waiting.py",
    SHORT_WAY,
    "services/worker/glowplug_worker/",
    "sdk/glowplug/runner/",
    "services/worker/glowplug_worker/",
    "services/gateway/glowplug_gateway/",
)


def journey_files(text: str) -> list[str]:
    """Return the file that each numbered step names first."""
    return re.findall(r"^\d+\. `([\w./-]+\.py)`", text, re.MULTILINE)


def test_the_journey_can_be_followed_in_twelve_files() -> None:
    text = read("docs/journey.md")
    steps = journey_files(text)
    waiting = re.findall(r"^\* `([\w./-]+\.py)`", text, re.MULTILINE)
    named = set(re.findall(r"`([\w./-]+\.py)`", text))
    assert all((ROOT / path).exists() for path in named)
    assert len(set(steps)) <= 12
    assert len({*steps, *waiting} - {SHORT_WAY}) <= 12
    assert named == {*steps, *waiting}, "a reader needs no file but those of the steps"
    rest = iter(steps)
    missed = [at for at in STATIONS if not any(step.startswith(at) for step in rest)]
    assert missed == [], f"{steps} does not pass {STATIONS} in this order"
    assert [path.split("/")[1] for path in waiting] == ["runtime", "scheduler"]


# -- README, CI, changelog ----------------------------------------------------------------------


def setup_commands() -> list[str]:
    fences = re.findall(r"^```sh setup\n(.+?)\n```$", read("README.md"), re.MULTILINE | re.DOTALL)
    return [fence.strip() for fence in fences]


def test_the_readme_has_two_commands_of_one_line() -> None:
    commands = setup_commands()
    assert len(commands) == 2
    assert all("\n" not in command for command in commands)


def test_ci_makes_the_venv_like_the_readme_and_runs_its_second_command() -> None:
    first, second = setup_commands()
    script = [line.strip() for line in read(".ci/run").splitlines() if line.strip()]
    assert script[-1] == second
    assert first.rpartition(" && ")[0] in script
    assert first.rpartition(" && ")[2] == ".venv/bin/glowplug quickstart"


def test_ci_is_a_bash_script_that_can_be_run() -> None:
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(ROOT / ".ci/run")], check=True)


def test_the_changelogs_headings_are_valid() -> None:
    text = read("CHANGELOG.md")
    versions = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ – \d{4}-\d\d-\d\d", v) for v in versions[1:])
    kinds = {"Added", "Changed", "Fixed", "Removed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds


def test_every_member_has_a_card() -> None:
    cards = [path for path in documents() if Path(path).name == "README.md"]
    assert_none(
        [
            f"services/{name}/README.md"
            for name in generated.SERVICES
            if f"services/{name}/README.md" not in cards
        ]
    )
