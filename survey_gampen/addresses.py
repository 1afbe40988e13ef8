"""Addresses (``https://...``, ``s3://...``): told from paths, and never shown with a secret.

What is shown ends up in logs, and what is stored in run.toml and job scripts. So an address with a
password or a signature is refused where settings are made, and shown without them anywhere.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from urllib.parse import parse_qsl, urlsplit

from survey_gampen.errors import InputError

#: Words in the keys of a query that let somebody in: those of Amazon's and Google's signed
#: addresses (X-Amz-Signature, X-Goog-Credential, AWSAccessKeyId, Signature), of Microsoft's (sig),
#: and the usual ones for keys.
_SECRET_WORDS = ("signature", "credential", "token", "password", "passwd", "secret", "accessid")
_SECRET_KEYS = frozenset(
    {"sig", "key", "api_key", "apikey", "auth", "pwd", "awsaccesskeyid", "access_key"}
)


def is_address(text: object) -> bool:
    """Whether this is an address and no path."""
    return "://" in str(text)


def is_web(url: str) -> bool:
    """Whether a web server answers there: files one by one, and no list of them."""
    return url.partition("://")[0].lower() in ("http", "https")


def shown(url: object) -> str:
    """The address without user, password and signature; a path as it is."""
    text = str(url)
    if not is_address(text):
        return text
    try:
        parts = urlsplit(text)
        query = parts.query if not _secret_keys(parts.query) else "..."
        host = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=host, query=query, fragment="").geturl()
    except ValueError:  # half a bracket of an IPv6 address
        return f"{text.partition('://')[0]}://..."


def refuse_secrets(url: str, what: str) -> None:
    """Refuse an address that holds a password or a signature.

    Parameters
    ----------
    url : str
        The address.
    what : str
        What to call it in the error, such as "catalog".

    Raises
    ------
    InputError
        Without the secret in its message.
    """
    try:
        parts = urlsplit(url)
        found = "@" in parts.netloc or bool(_secret_keys(parts.query))
    except ValueError as error:
        raise InputError(f"{what}: {shown(url)} is no address ({error})") from None
    if found:
        raise InputError(
            f"{what}: {shown(url)} was given with a password or a signature, which would be "
            "stored: take it out of the address and keep it in the environment (AWS_PROFILE, "
            "AWS_ACCESS_KEY_ID ...), ~/.netrc or the keyring"
        )


def stem(url: str) -> str:
    """The name of what lies there, without its last suffix and its query."""
    return PurePosixPath(urlsplit(url).path.rstrip("/") or urlsplit(url).netloc).stem


def parent(url: str) -> str:
    """The folder that it lies in."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/").rpartition("/")[0]
    return parts._replace(path=path, query="", fragment="").geturl()


def join(folder: str, name: str) -> str:
    """The address of something in a folder."""
    return f"{folder.rstrip('/')}/{name}"


def _secret_keys(query: str) -> list[str]:
    keys = [key.lower() for key, _ in parse_qsl(query, keep_blank_values=True)]
    return [
        key for key in keys if key in _SECRET_KEYS or any(word in key for word in _SECRET_WORDS)
    ]
