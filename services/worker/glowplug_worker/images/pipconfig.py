"""Turn a machine's pip configuration into uv's, because builds install with uv and users configure pip.

uv reads neither pip.conf nor PIP_*. `pip config list` tells both, merged, as the user's own pip sees
them; `uv_settings` translates what it says, and names what uv has no word for, so that nothing is
dropped silently. Paths on this machine (wheel directories, file:// indexes, certificates) are listed:
build containers need them bound. Only `read_pip_config` does I/O.
"""

from __future__ import annotations

import ast
import asyncio
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

READ_TIMEOUT_S = 20.0

_LINE = re.compile(r"^([\w:.-]+?)\.([\w.-]+)=(.*)$")
# pip's sections, the later ones winning; other commands' sections do not concern an install.
_SECTIONS = ("global", "install", ":env:")
# What concerns pip itself and not what is installed.
_OWN = frozenset(
    {
        "disable-pip-version-check",
        "no-cache-dir",
        "cache-dir",
        "no-color",
        "progress-bar",
        "quiet",
        "verbose",
        "log",
        "no-input",
        "root-user-action",
        "require-virtualenv",
        "break-system-packages",
        "no-warn-script-location",
        "format",
        "user",
        "retries",
        "config-file",
        "python-version-warning",
    }
)
# Variables of the machine that programs which download need, whatever pip says.
PASSED_ON = (
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
)


class PipConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How uv must be called in builds on this machine.

    Attributes:
        env: uv's variables.
        flags: options that uv has no variable for.
        local: existing or not, absolute: paths of this machine that `env` and `flags` name.
        ignored: pip's options that uv has no word for.
    """

    env: dict[str, str] = {}
    flags: tuple[str, ...] = ()
    local: tuple[Path, ...] = ()
    ignored: tuple[str, ...] = ()


def uv_settings(listing: str, environ: Mapping[str, str]) -> PipConfig:
    """Return uv's settings for what `pip config list` printed, and for the machine's environment."""
    options = parse_listing(listing)
    env = {name: environ[name] for name in PASSED_ON if environ.get(name)}
    # As pip does: every index counts the same, and the best version of all wins.
    env["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    flags: list[str] = []
    ignored: list[str] = []
    for name, value in options.items():
        if name in _VARIABLES:
            variable, separator = _VARIABLES[name]
            words = [_expanded(word, environ) for word in value.split()]
            env[variable] = (separator or " ").join(words)
        elif name in _FLAGS:
            flags += _flag(name, value)
        elif name == "proxy":
            env |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), value)
        elif name not in _OWN:
            ignored.append(name)
    return PipConfig(
        env=env,
        flags=tuple(flags),
        local=_outermost(local_paths(env)),
        ignored=tuple(ignored),
    )


def parse_listing(listing: str) -> dict[str, str]:
    """Return pip's options for an install: environment over [install] over [global]."""
    found: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for line in listing.splitlines():
        match = _LINE.match(line.strip())
        if match and match[1] in found:
            found[match[1]][match[2].replace("_", "-")] = _literal(match[3])
    return {name: value for section in _SECTIONS for name, value in found[section].items() if value}


def local_paths(env: Mapping[str, str]) -> Iterable[Path]:
    """Yield the paths of this machine that uv's variables name."""
    words = [
        *env.get("UV_FIND_LINKS", "").split(","),
        *env.get("UV_INDEX", "").split(),
        env.get("UV_DEFAULT_INDEX", ""),
        *env.get("UV_CONSTRAINT", "").split(),
    ]
    for word in words:
        parts = urlsplit(word)
        path = Path(unquote(parts.path) if parts.scheme == "file" else word)
        if parts.scheme not in ("", "file") or not path.is_absolute():
            continue
        # The usual index has its pages in simple/ and its files beside it, linked by '../'.
        yield path.parent if parts.scheme == "file" and path.name == "simple" else path
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSL_CLIENT_CERT"):
        if env.get(name, "").startswith("/"):
            yield Path(env[name])


def _outermost(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Return the paths once each, without those inside another: binding one shows them all."""
    found = dict.fromkeys(paths)
    return tuple(
        path for path in found if not any(path != up and path.is_relative_to(up) for up in found)
    )


async def read_pip_config(environ: Mapping[str, str]) -> PipConfig:
    """Ask this machine's pip what it is configured to do; without a pip there is only `environ`."""
    for python in _pythons_with_pip():
        listing = await _ask_pip(python)
        if listing is not None:
            return uv_settings(listing, environ)
    return uv_settings("", environ)


def _pythons_with_pip() -> Sequence[str]:
    base = getattr(sys, "_base_executable", sys.executable)
    return tuple(dict.fromkeys((sys.executable, base, "python3")))


async def _ask_pip(python: str) -> str | None:
    try:
        asked = await asyncio.create_subprocess_exec(
            python,
            "-m",
            "pip",
            "config",
            "list",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            output, _ = await asked.communicate()
    except TimeoutError:
        asked.kill()
        await asked.wait()
        return None
    return output.decode(errors="replace") if asked.returncode == 0 else None


def _literal(text: str) -> str:
    """Return what pip wrote with repr()."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return str(value)


def _expanded(word: str, environ: Mapping[str, str]) -> str:
    return environ.get("HOME", "~") + word[1:] if word.startswith("~/") else word


def _flag(name: str, value: str) -> list[str]:
    if name in _SWITCHES:
        return [_FLAGS[name]] if value.lower() in {"1", "true", "yes", "on"} else []
    names = [word for word in re.split(r"[\s,]+", value) if word and word != ":none:"]
    if ":all:" in names:
        return [_FLAGS[name]]
    return [f"{_FLAGS[name]}-package={word}" for word in names]


# pip's option → uv's variable, and what separates several values there ("" = there is only one).
_VARIABLES: dict[str, tuple[str, str]] = {
    "index-url": ("UV_DEFAULT_INDEX", ""),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "cert": ("SSL_CERT_FILE", ""),
    "client-cert": ("SSL_CLIENT_CERT", ""),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "timeout": ("UV_HTTP_TIMEOUT", ""),
    "default-timeout": ("UV_HTTP_TIMEOUT", ""),
    "constraint": ("UV_CONSTRAINT", " "),
}
_FLAGS = {
    "no-index": "--no-index",
    "only-binary": "--no-build",
    "no-binary": "--no-binary",
    "pre": "--prerelease=allow",
    "no-deps": "--no-deps",
    "require-hashes": "--require-hashes",
    "no-build-isolation": "--no-build-isolation",
}
_SWITCHES = frozenset({"no-index", "pre", "no-deps", "require-hashes", "no-build-isolation"})
