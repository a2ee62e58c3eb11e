"""A project's files as one zip whose bytes depend on nothing but their names and contents.

`.gitignore` and `.glowplugignore` are obeyed in every folder; version control, virtual environments
and caches never go along. Links to folders are not followed.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pathspec

from glowplug.client.source import Project
from glowplug.errors import SourceTooLargeError

BYTES_MAX = 100 * 1024 * 1024
FILES_MAX = 10_000
LARGEST_NAMED = 5
IGNORE_FILES = (".gitignore", ".glowplugignore")
NEVER_FOLDERS = frozenset(
    {
        ".git",
        ".hg",
        ".svn",
        ".venv",
        "__pycache__",
        "__pypackages__",
        "node_modules",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".hypothesis",
        ".import_linter_cache",
        ".tox",
        ".nox",
        ".ipynb_checkpoints",
    }
)
NEVER_SUFFIXES = (".pyc", ".pyo", ".swp")
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class File:
    """One file to pack."""

    name: str
    path: Path
    size: int
    executable: bool


def pack(project: Project, extra: dict[str, str] | None = None) -> bytes:
    """Return the zip of a project, with some made files added.

    Raises: SourceTooLargeError naming the five largest files.
    """
    files = list_files(project)
    check_size(files, project.root)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in files:
            _write(archive, file.name, file.path.read_bytes(), executable=file.executable)
        for name, text in sorted((extra or {}).items()):
            _write(archive, name, text.encode(), executable=False)
    return buffer.getvalue()


def list_files(project: Project) -> list[File]:
    """Return what goes along, sorted by name."""
    if project.only is not None:
        names: Iterator[str] = iter(project.only)
    else:
        names = _walk(project.root)
    files: list[File] = []
    for name in names:
        path = project.root / name
        try:
            status = path.stat()
        except OSError:
            continue  # a dangling link, or a file that went away meanwhile
        if path.is_file():
            files.append(File(name, path, status.st_size, bool(status.st_mode & 0o100)))
    return sorted(files, key=lambda file: file.name)


def check_size(files: list[File], root: Path) -> None:
    """Refuse what is too much to send with every change.

    Raises: SourceTooLargeError.
    """
    total = sum(file.size for file in files)
    if total <= BYTES_MAX and len(files) <= FILES_MAX:
        return
    largest = sorted(files, key=lambda file: -file.size)[:LARGEST_NAMED]
    named = "\n".join(f"  {file.size / 1024**2:8.1f} MiB  {file.name}" for file in largest)
    raise SourceTooLargeError(
        f"{root} has {len(files):,} files with {total / 1024**2:,.1f} MiB; at most {FILES_MAX:,} files "
        f"and {BYTES_MAX // 1024**2} MiB go along. List what is not needed in .glowplugignore. "
        f"The largest:\n{named}",
        details={"files": len(files), "bytes": total},
    )


def _walk(root: Path) -> Iterator[str]:
    """Yield the names of the files below root that no rule leaves out."""
    specs: dict[Path, list[tuple[Path, pathspec.GitIgnoreSpec]]] = {}
    for current, folders, names in os.walk(root):
        folder = Path(current)
        rules = [*specs.get(folder.parent, []), *_own_rules(folder, names)]
        specs[folder] = rules
        folders[:] = [
            name
            for name in sorted(folders)
            if name not in NEVER_FOLDERS
            and not name.endswith(".egg-info")
            and not (folder / name / "pyvenv.cfg").exists()
            and not (folder / name).is_symlink()
            and not _is_ignored(folder / name, rules, is_folder=True)
        ]
        for name in names:
            path = folder / name
            if not name.endswith(NEVER_SUFFIXES) and not _is_ignored(path, rules, is_folder=False):
                yield path.relative_to(root).as_posix()


def _own_rules(folder: Path, names: list[str]) -> list[tuple[Path, pathspec.GitIgnoreSpec]]:
    rules: list[tuple[Path, pathspec.GitIgnoreSpec]] = []
    for name in IGNORE_FILES:
        if name in names:
            lines = (folder / name).read_text("utf-8", "replace").splitlines()
            rules.append((folder, pathspec.GitIgnoreSpec.from_lines(lines)))
    return rules


def _is_ignored(
    path: Path, rules: list[tuple[Path, pathspec.GitIgnoreSpec]], *, is_folder: bool
) -> bool:
    # The nearest file that says anything decides, as in git; "!" lines bring a path back.
    for base, spec in reversed(rules):
        name = path.relative_to(base).as_posix() + ("/" if is_folder else "")
        found = spec.check_file(name).include
        if found is not None:
            return bool(found)
    return False


def _write(archive: zipfile.ZipFile, name: str, data: bytes, *, executable: bool) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = 3
    entry.external_attr = (0o100755 if executable else 0o100644) << 16
    archive.writestr(entry, data, compresslevel=1)
