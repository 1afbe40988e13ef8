"""Names, passwords and tokens of remote services: where they come from, and that none gets out.

Nothing secret is taken from a command line, a configuration file or an address, for these end up in
process lists, in run.toml and in logs. In this order are asked: the environment, files that the
environment names, the keyring, ``~/.netrc``. Each process looks for itself: what it finds can't be
pickled, so that no secret travels from a client to its workers or into a job script.
"""

from __future__ import annotations

import netrc
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import SplitResult, urlsplit

from survey_gampen.errors import InputError

#: Hosts that a password may go to unencrypted: no network lies between.
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
#: Where a service's own tools keep its token. Notebooks of the Rubin Science Platform have it in
#: the environment, and in a file (Python package lsst-rsp, ``get_access_token``, ``RSPClient``).
_TOKEN_VARIABLES = {"rubin": ("ACCESS_TOKEN",)}
_TOKEN_FILE_VARIABLES = {"rubin": ("ACCESS_TOKEN_FILE",)}
_TOKEN_FILES = {"rubin": ("/opt/lsst/software/jupyterlab/secrets/token",)}


class _Guarded:
    """What must not be shown, written or sent."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(hidden)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} is not pickled: each process looks for its own")


class Login(_Guarded):
    """A name and a password; ``user, password = login`` works.

    Attributes
    ----------
    user, password : str
    """

    __slots__ = ("password", "user")

    def __init__(self, user: str, password: str) -> None:
        self.user, self.password = user, password

    def __iter__(self) -> Iterator[str]:
        return iter((self.user, self.password))


class Token(_Guarded):
    """A bearer token.

    Attributes
    ----------
    value : str
    """

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value


def login(service: str, url: str) -> Login | None:
    """Name and password for a service, or None where nobody told them.

    Asked are, for the service ``hsc``: ``SURVEY_GAMPEN_HSC_USER`` with
    ``SURVEY_GAMPEN_HSC_PASSWORD``, or with the first line of the file that
    ``SURVEY_GAMPEN_HSC_PASSWORD_FILE`` names; the keyring's entry ``survey-gampen-hsc``; the line
    of the service's host in ``~/.netrc``, or in the file ``NETRC``.

    Parameters
    ----------
    service : str
        Short name of the service: ``hsc``.
    url : str
        Its address; tells the host.

    Raises
    ------
    InputError
        The address holds a password or is not encrypted; a file may be read by others, or can't be
        read; there is a name without a password or the reverse.
    """
    parts = plain_url(url)
    user = os.environ.get(_variable(service, "USER"), "").strip()
    password = _from_environment(service, "PASSWORD")
    if password and not user:
        raise InputError(f"set {_variable(service, 'USER')} as well: a password needs its user")
    if user and password:
        found = Login(user, password)
    else:
        entry = _from_keyring(service, user or None) or _from_netrc(parts.hostname or "", user)
        if entry is None and user:
            raise InputError(
                f"no password of {user} for {parts.hostname}: set"
                f" {_variable(service, 'PASSWORD_FILE')} or keep it in the keyring as"
                f" {_entry(service)}"
            )
        if entry is None:
            return None
        found = entry
    _need_encryption(parts)
    return found


def token(service: str, url: str = "") -> Token | None:
    """Bearer token for a service, or None where nobody told one.

    Asked are, for the service ``rubin``: ``SURVEY_GAMPEN_RUBIN_TOKEN``, the first line of the file
    that ``SURVEY_GAMPEN_RUBIN_TOKEN_FILE`` names, what the Rubin Science Platform sets in its
    notebooks (``ACCESS_TOKEN``, ``ACCESS_TOKEN_FILE`` and a file), and the keyring's entry
    ``survey-gampen-rubin`` of user ``token``.

    Parameters
    ----------
    service : str
        Short name of the service: ``rubin``.
    url : str
        The address it goes to; where given it must be encrypted.

    Raises
    ------
    InputError
        The address holds a password or is not encrypted; a file may be read by others, or can't be
        read.
    """
    parts = plain_url(url) if url else None
    value = _from_environment(service, "TOKEN")
    for name in _TOKEN_VARIABLES.get(service, ()):
        value = value or os.environ.get(name, "").strip()
    for name in _TOKEN_FILE_VARIABLES.get(service, ()):
        if not value and os.environ.get(name):
            value = _first_line(Path(os.environ[name]).expanduser(), name)
    for name in _TOKEN_FILES.get(service, ()):
        if not value and Path(name).is_file():
            value = _first_line(Path(name), name)
    if not value and (entry := _from_keyring(service, "token")):
        value = entry.password
    if value and parts:
        _need_encryption(parts)
    return Token(value) if value else None


def plain_url(url: str) -> SplitResult:
    """Split an address after a look that it holds no name and no password.

    Raises
    ------
    InputError
        It does. The line shows neither.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        raise InputError("this is no address of a service: write https://host/path") from None
    if "@" in parts.netloc:
        raise InputError(
            f"{parts.scheme}://{host}: leave name and password out of the address; they are taken"
            " from the environment, the keyring or ~/.netrc"
        )
    return parts


def how_to(service: str, kind: str = "login") -> str:
    """Half a line that says where a secret can be given, for errors about a missing one."""
    if kind == "token":
        return f"set {_variable(service, 'TOKEN_FILE')} or {_variable(service, 'TOKEN')}"
    return (
        f"set {_variable(service, 'USER')} and {_variable(service, 'PASSWORD_FILE')}, or use the"
        " keyring or ~/.netrc"
    )


def _variable(service: str, what: str) -> str:
    return f"SURVEY_GAMPEN_{service.upper()}_{what}"


def _entry(service: str) -> str:
    return f"survey-gampen-{service}"


def _need_encryption(parts: SplitResult) -> None:
    scheme = parts.scheme.rpartition("+")[2]
    if scheme != "https" and parts.hostname not in _LOOPBACK:
        raise InputError(
            f"{parts.hostname}: passwords and tokens go over https only, not {scheme or 'this'}"
        )


def _from_environment(service: str, what: str) -> str:
    value = os.environ.get(_variable(service, what), "").strip()
    variable = _variable(service, f"{what}_FILE")
    if value or not os.environ.get(variable):
        return value
    return _first_line(Path(os.environ[variable]).expanduser(), variable)


def _first_line(path: Path, called: str) -> str:
    """The first line of a file that its owner alone may read."""
    try:
        _need_privacy(path)
        with path.open(encoding="utf-8") as lines:
            value = lines.readline().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise InputError(f"{called}: {path} cannot be read ({reason})") from None
    if not value:
        raise InputError(f"{called}: {path} holds nothing in its first line")
    return value


def _need_privacy(path: Path) -> None:
    found = path.stat()
    if stat.S_ISREG(found.st_mode) and found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InputError(f"{path} may be read by others: chmod 600 {path}")


def _from_keyring(service: str, user: str | None) -> Login | None:
    """The keyring's entry; none where there is no keyring, or none that can be asked."""
    try:
        import keyring
    except ImportError:
        return None
    try:
        found = keyring.get_credential(_entry(service), user)
    except Exception:  # whatever a backend may raise: a node without a desktop has no keyring
        return None
    return Login(found.username, found.password) if found and found.password else None


def _from_netrc(host: str, user: str) -> Login | None:
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    if not path.is_file():
        return None
    try:
        _need_privacy(path)
        # Not the entry `default`, which would send its password to any host.
        found = netrc.netrc(str(path)).hosts.get(host)
    except netrc.NetrcParseError as error:  # whose words may hold the password
        raise InputError(f"{path}: line {error.lineno} cannot be read") from None
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{path} cannot be read") from None
    if not found or not found[0] or not found[2] or (user and user != found[0]):
        return None
    return Login(found[0], found[2])
