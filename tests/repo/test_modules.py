"""Every module says what it is; names are the glossary's; nothing tells of the author's machine."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.repo.tree import assert_none, files, product, read, sources

# Words that say nothing, and synonyms of words that the glossary has chosen.
BANNED = {
    "manager": "say what it keeps true",
    "managers": "say what they keep true",
    "helper": "say what it does",
    "helpers": "say what they do",
    "util": "say what it does",
    "utils": "say what they do",
    "misc": "say what it is",
    "pod": "container",
    "pods": "containers",
    "job": "invocation",
    "jobs": "invocations",
    "lambda": "function",
    "cronjob": "trigger",
}
BANNED_MODULES = {"handler", "handlers", "common", "data", "info", "helpers", "util", "utils"}
MACHINE = re.compile(r"/work/(?!\*)|/root/\.|/home/(?!user\b|me\b)\w+/|/opt/pypi|/opt/wheels")


def words(name: str) -> list[str]:
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def names(tree: ast.Module) -> set[str]:
    """Return the names that a module gives: classes, functions, parameters, variables."""
    given = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            given.add(node.name)
        elif isinstance(node, ast.arg):
            given.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            given.add(node.id)
    return given


def test_every_module_says_what_it_is() -> None:
    silent = [
        source.path
        for source in (
            *product(),
            *sources("benchmarks/", "examples/", "deploy/", "tests/support/"),
        )
        if len(ast.get_docstring(source.tree) or "") < 20
    ]
    assert_none(silent)


def test_names_are_the_glossarys() -> None:
    assert_none(
        [
            f"{source.path}: {name}: {BANNED[word]}"
            for source in product()
            for name in sorted(names(source.tree))
            for word in words(name)
            if word in BANNED
        ]
    )
    assert_none([s.path for s in product() if Path(s.path).stem in BANNED_MODULES])


def test_the_search_finds_a_banned_word() -> None:
    tree = ast.parse("class PodManager:\n    def run(self, job_id): ...")
    assert {word for name in names(tree) for word in words(name)} & set(BANNED) == {
        "pod",
        "manager",
        "job",
    }


def test_no_file_names_a_machine_of_ours() -> None:
    binary = (".png", ".msgpack", ".gz", ".zst", ".bin", ".onnx", ".wav", ".ico", ".woff2")
    assert_none(
        [
            f"{path}: {match.group()}"
            for path in files()
            if not path.endswith(binary) and path != "tests/repo/test_modules.py"
            for match in [MACHINE.search(read(path))]
            if match
        ]
    )
