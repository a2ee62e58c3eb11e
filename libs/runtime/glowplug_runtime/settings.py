"""Settings: defaults in code, then the environment, read exactly once at start.

`GLOWPLUG_<SERVICE>_<FIELD>` sets a service's field, `GLOWPLUG_<FIELD>` a common one for all services.
Unknown names with the service's own prefix are refused, because a mistyped limit is a missing limit.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_type_hints

import msgspec

S = TypeVar("S", bound="Settings")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What every service can be told.

    Attributes:
        nats_url: where the broker is; several, separated by commas.
        nats_credentials: file with "user:password"; "" for a broker without users.
        internal_token_file: file with the token that services show each other over HTTP.
        instance: this replica's name; "" makes one. Must be one token of letters, digits, '-', '_'.
        data_dir: where the service may write.
        host, port: where its HTTP listens; port 0 takes a free one.
        log_level: debug, info, warning or error.
        shards: what the platform is divided into; 0 = as the broker says (only the scheduler decides).
        trace_sample: share of traces recorded, 0 … 1; less saves about 20 µs a hop.
        logs_kept_s: how long what users' code printed is kept, after its container and over restarts.
    """

    nats_url: str = "nats://127.0.0.1:4222"
    nats_credentials: str = ""
    internal_token_file: str = ""
    instance: str = ""
    data_dir: str = ""
    host: str = "127.0.0.1"
    port: int = 0
    log_level: str = "info"
    shards: int = 0
    trace_sample: float = 1.0
    logs_kept_s: float = 7 * 86_400.0


class SettingsError(Exception):
    """A setting that is unknown or has an impossible value."""


def load(kind: type[S], service: str, environ: Mapping[str, str] | None = None) -> S:
    """Return the service's settings.

    Raises: SettingsError naming the variable.
    """
    env = os.environ if environ is None else environ
    own = f"GLOWPLUG_{service.upper()}_"
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for name in kind.__struct_fields__:
        for variable in (own + name.upper(), f"GLOWPLUG_{name.upper()}"):
            common = name in Settings.__struct_fields__
            if variable in env and (common or variable.startswith(own)):
                values[name] = _convert(variable, env[variable], hints[name])
                break
    for variable in env:
        if variable.startswith(own) and variable[len(own) :].lower() not in kind.__struct_fields__:
            raise SettingsError(f"{variable} is no setting of {service}")
    return kind(**values)


def _convert(variable: str, text: str, kind: Any) -> Any:
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as err:
        raise SettingsError(f"{variable}={text!r}: {err}") from err


def redacted(settings: Settings) -> dict[str, object]:
    """Return the settings for showing; files that hold secrets are named, never read."""
    return {name: getattr(settings, name) for name in settings.__struct_fields__}


def inherited(names: Iterable[str]) -> dict[str, str]:
    """Return those of the machine's variables (proxies, certificates) that are set, for programs."""
    return {name: os.environ[name] for name in names if name in os.environ}


def read_secret(path: str) -> str:
    """Return the stripped content of a secret's file, or "" if `path` is ""."""
    if not path:
        return ""
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        return file.read().strip()
