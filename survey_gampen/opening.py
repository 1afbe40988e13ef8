"""Object stores through fsspec: opened in one place, and what is wrong with how they are asked.

Keys, region and the address of a store come from the environment and ``~/.aws``. What makes no
sense there is found out by botocore, in a dozen classes of errors and some plain ValueErrors.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from typing import Any

from survey_gampen.errors import InputError

#: Nothing is remembered of what is there: others write, and must be seen at once.
FRESH = {"use_listings_cache": False}
#: Errors of botocore, by name, that nothing but other settings will mend.
_NO_KEYS = frozenset({"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"})
#: Beginnings of the names of more such errors: of a region, a mode, a file of settings ...
_SETTINGS = ("Config", "InfiniteLoop", "Invalid", "NoRegion", "ParamValid", "Unknown", "Unsupp")
_LIBRARIES = ("botocore", "aiobotocore")
#: Of aiohttp, where an address can't even be tried.
_NO_ADDRESS = frozenset({"InvalidURL", "InvalidUrlClientError", "NonHttpUrlClientError"})


#: Variables that name a store's address.
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "FSSPEC_S3_ENDPOINT_URL")


def check_endpoint() -> None:
    """Refuse the address of a store that holds a password: libraries write it into their errors.

    Raises
    ------
    InputError
    """
    for name in _ENDPOINTS:
        if "@" in os.environ.get(name, "").partition("://")[2].partition("/")[0]:
            raise InputError(
                f"{name} holds a password: write https://HOST there, and give keys by AWS_PROFILE,"
                " or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )


def open_filesystem(scheme: str, **options: Any) -> Any:
    """The fsspec file system of a kind of store (``s3``).

    Raises
    ------
    InputError
        The store's address holds a password.
    ImportError
        A package for it is missing.
    ValueError, TypeError
        fsspec knows of no such thing, or needs to be told more.
    """
    import fsspec

    check_endpoint()
    return fsspec.filesystem(scheme, **FRESH, **options)


def refusal(error: BaseException) -> InputError | None:
    """What the user must put right for an object store to be asked at all; None: nothing.

    Looks through the chain of causes.
    """
    for link in _chain(error):
        if type(link).__name__ in _NO_KEYS:
            words = " ".join(str(link).split())
            return InputError(
                f"no keys for the object store ({words}): set AWS_PROFILE, or AWS_ACCESS_KEY_ID and"
                " AWS_SECRET_ACCESS_KEY, or write them into ~/.aws/credentials"
            )
    return misconfigured(error)


def misconfigured(error: BaseException) -> InputError | None:
    """What is wrong with the name of a bucket, or the settings of its store; None: nothing.

    Looks through the chain of causes.
    """
    for link in _chain(error):
        kind, words = type(link).__name__, " ".join(str(link).split())
        library = type(link).__module__.partition(".")[0]
        plain = isinstance(link, ValueError) and _out_of_botocore(link)
        unresolved = kind == "EndpointResolutionError" and words.startswith("Custom endpoint")
        if (
            unresolved
            or (plain and ("endpoint" in words or "IPv6" in words))
            or (library == "aiohttp" and kind in _NO_ADDRESS)
        ):  # the words may hold a password
            return InputError(
                "AWS_ENDPOINT_URL (or endpoint_url in ~/.aws/config) is no address of an object"
                " store: write https://HOST, or leave it out for Amazon's"
            )
        if plain or (library in _LIBRARIES and kind.startswith(_SETTINGS)):
            return InputError(
                f"an object store can't be asked like that ({words[:200]}): look at the name of the"
                " bucket, at AWS_REGION and what else begins with AWS_, and at ~/.aws/config"
            )
    return None


def _out_of_botocore(error: BaseException) -> bool:
    """Whether an error of no class of its own was raised where settings are read."""
    frames = traceback.walk_tb(error.__traceback__)
    modules = (str(frame.f_globals.get("__name__", "")) for frame, _ in frames)
    return any(module.partition(".")[0] in _LIBRARIES for module in modules)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__
