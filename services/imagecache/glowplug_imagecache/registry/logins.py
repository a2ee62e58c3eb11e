"""What a pull shows to registries: users' credentials, and the tokens that they were given for them.

Kept in memory only, bounded, never logged, and filed under whose they are: a token that one user's
password bought serves no other.
"""

from __future__ import annotations

import base64
import collections
import hashlib
from typing import Final, NamedTuple

import msgspec

LOGINS_MAX: Final = 1024
# How long it is remembered that a registry wants a password with each request.
BASIC_KEPT_S: Final = 600.0


class Credentials(msgspec.Struct, frozen=True):
    """A name and a password for one registry."""

    username: str
    password: str

    def __repr__(self) -> str:
        return "Credentials(…)"

    @property
    def basic(self) -> str:
        """Return the header value that shows them."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class LoginKey(NamedTuple):
    """For which server and repository, and whose."""

    origin: tuple[str, str, int]
    scope: str
    owner: str


class Login(msgspec.Struct, frozen=True):
    """An Authorization header, and until when it is shown (monotonic seconds)."""

    header: str
    until: float

    def __repr__(self) -> str:
        return f"Login(until={self.until})"


def login_key(
    origin: tuple[str, str, int], scope: str, credentials: Credentials | None
) -> LoginKey:
    """Return where a login is kept; the password is in it as a hash only."""
    owner = hashlib.sha256(credentials.basic.encode()).hexdigest() if credentials else ""
    return LoginKey(origin, scope, owner)


class Logins:
    """The logins that still serve, the least recently used dropped first."""

    def __init__(self) -> None:
        self._kept: collections.OrderedDict[LoginKey, Login] = collections.OrderedDict()

    def get(self, key: LoginKey, now: float) -> str:
        """Return the header to show, or "" where a registry has to be asked how."""
        login = self._kept.get(key)
        if login is None or login.until <= now:
            self._kept.pop(key, None)
            return ""
        self._kept.move_to_end(key)
        return login.header

    def put(self, key: LoginKey, login: Login) -> None:
        """Keep a login."""
        self._kept[key] = login
        self._kept.move_to_end(key)
        while len(self._kept) > LOGINS_MAX:
            self._kept.popitem(last=False)

    def drop(self, key: LoginKey, header: str) -> None:
        """Forget a login that was refused, unless another has taken its place."""
        login = self._kept.get(key)
        if login is not None and login.header == header:
            del self._kept[key]
