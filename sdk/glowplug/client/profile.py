"""Which platform a program talks to: profiles in the user's configuration, and the environment.

`config.toml` under the user's configuration directory holds `current` and a table of profiles, each
with `urls` (tried in turn) and a `token`. `GLOWPLUG_URL`, `GLOWPLUG_TOKEN`, `GLOWPLUG_CA_FILE`
and `GLOWPLUG_PROFILE` win.
This is the only module of the SDK that reads the environment.
"""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glowplug.errors import ConfigurationError

LOCAL = "local"
LOCAL_URL = "http://127.0.0.1:1994"


@dataclass(frozen=True)
class Profile:
    """One platform.

    Attributes:
        name: "local" is the one that `glowplug up` writes.
        urls: of its gateways.
        token: sent as a bearer token; "" = none.
        ca_file: PEM file of certificates that are trusted beside the system's; "" = none.
        given: whether the user chose the address (then no local platform is started instead).
    """

    name: str
    urls: tuple[str, ...]
    token: str = ""
    given: bool = False
    ca_file: str = ""

    @property
    def is_local(self) -> bool:
        """Whether a platform may be started for the length of a program."""
        return self.name == LOCAL and not self.given


def config_path() -> Path:
    """Return where the profiles are kept."""
    import platformdirs  # noqa: PLC0415 - only where a profile is read

    return Path(platformdirs.user_config_dir("glowplug", appauthor=False)) / "config.toml"


def is_quiet() -> bool:
    """Return whether live output is switched off."""
    return os.environ.get("GLOWPLUG_QUIET", "") not in {"", "0"}


def volume_places() -> dict[str, str]:
    """Return where this container sees its volumes, by name; {} outside."""
    places: dict[str, str] = json.loads(os.environ.get("GLOWPLUG_VOLUMES") or "{}")
    return places


def model_places() -> dict[str, str]:
    """Return where this container sees its models, by name; {} outside."""
    places: dict[str, str] = json.loads(os.environ.get("GLOWPLUG_MODELS") or "{}")
    return places


def no_color() -> bool:
    """Return whether the user wants plain output (https://no-color.org)."""
    return bool(os.environ.get("NO_COLOR"))


def load_profile(name: str = "") -> Profile:
    """Return the profile to use.

    Raises: ConfigurationError for a profile that nobody wrote, or a file that can't be read.
    """
    config = read_config()
    wanted = name or os.environ.get("GLOWPLUG_PROFILE", "") or str(config.get("current", LOCAL))
    profiles = config.get("profiles", {})
    stored = profiles.get(wanted)
    if stored is None and wanted != LOCAL:
        raise ConfigurationError(
            f"there is no profile {wanted!r} in {config_path()}; `glowplug config list` names them"
        )
    found = stored or {}
    urls = tuple(str(url).rstrip("/") for url in found.get("urls", ())) or (LOCAL_URL,)
    token = str(found.get("token", ""))
    url = os.environ.get("GLOWPLUG_URL", "")
    if url:
        urls = tuple(part.strip().rstrip("/") for part in url.split(",") if part.strip())
    token = os.environ.get("GLOWPLUG_TOKEN", token)
    ca_file = os.environ.get("GLOWPLUG_CA_FILE", str(found.get("ca_file", "")))
    return Profile(wanted, urls, token, given=bool(url), ca_file=ca_file)


def read_config() -> dict[str, Any]:
    """Return the configuration file's content; {} if there is none.

    Raises: ConfigurationError if it can't be read.
    """
    path = config_path()
    try:
        with path.open("rb") as file:
            config: dict[str, Any] = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError) as err:
        raise ConfigurationError(f"can't read {path}: {err}") from err
    return config


def save_profile(profile: Profile) -> Path:
    """Write a profile (mode 0600) and return the file; others stay as they are."""
    config = read_config()
    profiles = dict(config.get("profiles", {}))
    profiles[profile.name] = {
        "urls": list(profile.urls),
        "token": profile.token,
        "ca_file": profile.ca_file,
    }
    return _write({**config, "profiles": profiles})


def remove_profile(name: str) -> None:
    """Forget a profile, if there is one."""
    config = read_config()
    profiles = {key: value for key, value in config.get("profiles", {}).items() if key != name}
    if profiles != config.get("profiles", {}):
        _write({**config, "profiles": profiles})


def use_profile(name: str) -> Path:
    """Make a profile the current one.

    Raises: ConfigurationError if nobody wrote it.
    """
    config = read_config()
    if name not in config.get("profiles", {}) and name != LOCAL:
        raise ConfigurationError(f"there is no profile {name!r} in {config_path()}")
    return _write({**config, "current": name})


def _write(config: dict[str, Any]) -> Path:
    path = config_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"current = {_quoted(str(config.get('current', LOCAL)))}", ""]
    for name, profile in sorted(config.get("profiles", {}).items()):
        urls = ", ".join(_quoted(str(url)) for url in profile.get("urls", ()))
        lines += [
            f"[profiles.{_quoted(name)}]",
            f"urls = [{urls}]",
            f"token = {_quoted(str(profile.get('token', '')))}",
            *(
                [f"ca_file = {_quoted(str(ca_file))}"]
                if (ca_file := profile.get("ca_file"))
                else []
            ),
            "",
        ]
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".config-")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write("\n".join(lines))
    Path(temporary).replace(path)
    return path


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    if any(ord(letter) < ord(" ") for letter in escaped):
        raise ConfigurationError(f"{text!r} has control characters")
    return f'"{escaped}"'
