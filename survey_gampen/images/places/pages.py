"""Pages of a server that link to images: all that are found by following their links."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit

from survey_gampen.errors import InputError
from survey_gampen.images.places.listing import is_image_name
from survey_gampen.images.places.remote import Ask

#: Pages of listings that are read, at most: a folder with more is no folder of images.
_PAGES = 2_000


def find_images(address: str, links: Callable[[str], list[str] | None], ask: Ask) -> set[str]:
    """Names of all images below an address that its pages link to.

    Parameters
    ----------
    address : str
        The folder, without a slash at its end.
    links : callable
        Where a page links to, by its name below the address; None: there is no such page.
    ask : Ask
        Makes these requests.

    Raises
    ------
    InputError
        Nothing there, no images, or too many pages.
    """
    base = urlsplit(f"{address}/")
    found, seen, todo = set[str](), {""}, [""]
    while todo:
        page = todo.pop()
        there = ask(page, partial(links, page))
        if there is None and not page:
            raise InputError(f"{address}/: nothing there; is the address right?")
        for link in there or []:
            to = urlsplit(urljoin(f"{address}/{page}", link))
            if to.netloc != base.netloc or not to.path.startswith(base.path) or to.query:
                continue
            name = to.path[len(base.path) :]
            if name.endswith("/") and name not in seen:
                seen.add(name)
                todo.append(name)
            elif is_image_name(unquote(name)):
                found.add(name)
        if len(seen) > _PAGES:
            raise InputError(
                f"{address}/: more than {_PAGES} folders; use a profile with a sky map"
            )
    if not found:
        raise InputError(f"{address}/: links to no FITS file")
    return found


def links_of(page: bytes) -> list[str]:
    """Where a page of HTML links to."""
    links = _Links()
    links.feed(page.decode("utf-8", errors="replace"))
    return links.found


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for key, value in attrs if key == "href" and value]
