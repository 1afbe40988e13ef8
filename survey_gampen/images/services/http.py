"""Talk to a cutout service: few connections at once, and patience."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from requests import Response

from survey_gampen.credentials import Login, Token
from survey_gampen.errors import InputError
from survey_gampen.net.body import Body
from survey_gampen.net.server import Server
from survey_gampen.net.slots import Slots
from survey_gampen.net.waiting import Backoff, CutOff, Patience, Transient

_PATIENCE = Patience(seconds=900.0, first=2.0, most=60.0)


@dataclass(frozen=True)
class Manners:
    """How a service is treated.

    Attributes
    ----------
    connections : int
        At once, of all workers of a run. Four is what HSC's own client opens.
    patience : Patience
        How long it is waited for without any progress, until the run stops; it can go on later.
    connect, silence : float
        Seconds until a connection must stand, and until the next bytes must have come. A cutout
        service may think for minutes before it sends the first.
    tries : int
        How often a galaxy is asked for whose answer is wrong.
    """

    connections: int = 4
    patience: Patience = _PATIENCE
    connect: float = 20.0
    silence: float = 600.0
    tries: int = 3


class Client(Server):
    """Requests to one service, made again while that may help.

    Parameters
    ----------
    service : str
        Short name, as in the names of variables: ``hsc``.
    url : str
        Its address.
    secret : Login, Token or None
    manners : Manners
    slots : Slots
        Shared with the other workers.

    Raises
    ------
    InputError
        The address holds a password.
    """

    def __init__(
        self, service: str, url: str, secret: Login | Token | None, manners: Manners, slots: Slots
    ) -> None:
        super().__init__(service, url, secret, connect=manners.connect, silence=manners.silence)
        self.manners, self._slots = manners, slots

    def backoff(self) -> Backoff:
        """A new count of failures, for one task."""
        return Backoff(self.manners.patience, self.host)

    @contextlib.contextmanager
    def ask(self, method: str, url: str, backoff: Backoff, **words: Any) -> Iterator[Response]:
        """Ask until an answer begins, whose body is yet to come.

        Parameters
        ----------
        method : str
            ``GET`` or ``POST``.
        url : str
        backoff : Backoff
        **words
            As of :meth:`Server.once`.

        Raises
        ------
        InputError
            The service does not let us in, or does not understand us.
        OutsideFault
            No answer for long.
        """
        while True:
            with self._slots.one():
                try:
                    response = self.once(method, url, **words)
                except Transient as error:
                    trouble = error
                else:
                    with response:
                        yield response
                    return
            backoff.wait(trouble)

    def fetch(self, method: str, url: str, backoff: Backoff, limit: int, **words: Any) -> bytes:
        """Ask until a whole answer has come, of no more than `limit` bytes."""
        while True:
            with self.ask(method, url, backoff, **words) as response:
                try:
                    content = Body(response).read(limit + 1)
                except CutOff as error:
                    trouble = error
                else:
                    if len(content) > limit:
                        raise InputError(f"{self.host}: an answer of more than {limit} bytes")
                    return content
            backoff.wait(trouble)
