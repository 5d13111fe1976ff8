"""The same as :class:`LoginSocket`, by polling alone."""

from __future__ import annotations

import copy
import json
import threading
import time
from typing import Any

import requests

from .login_client import LoginSocket
from .waiting import DEADLINE

_SEPARATOR = "\x1e"


class LoginPolling(LoginSocket):
    """A session of polls in the default namespace.

    Args:
        url: The server.
        cookie: What each request bears.
        headers: More of what each request says.
    """

    def __init__(
        self, url: str, cookie: str, headers: dict[str, str] | None = None
    ) -> None:
        self.events = []
        self.answer: Any = None
        self.ended = None
        self.dismissed = False
        self._acks = {}
        self._number = 0
        self._changed = threading.Condition()
        self._closing = False
        self._headers = {"Cookie": cookie, "Origin": url, **(headers or {})}
        self._url = f"{url}/socket.io/?EIO=4&transport=polling"
        opened = self._request("GET")
        if opened.status_code != 200:
            raise ConnectionError(f"{opened.status_code} {opened.text}")
        sid = json.loads(opened.text[1:])["sid"]
        self._url += f"&sid={sid}"
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._send("40")
        self._reader.start()
        self.wait(lambda: self.answer is not None or self.ended is not None)

    @property
    def sid(self) -> str:
        """The session's id."""
        return self._url.rpartition("sid=")[2]

    def stolen(self, url: str, cookie: str) -> LoginPolling:
        """Return what has the session's id, but neither its cookie nor its server."""
        made = copy.copy(self)
        made._url = f"{url}/socket.io/{self._url.partition('/socket.io/')[2]}"
        made._headers = {"Origin": url, "Cookie": cookie}
        return made

    def unknown(self) -> LoginPolling:
        """Return the same with the id of no session."""
        made = copy.copy(self)
        made._url = self._url[:-12] + "abcdefghijkl"
        return made

    def close(self) -> None:
        """Go."""
        self._closing = True
        self._send("1")
        self._reader.join(DEADLINE)

    def _request(self, method: str, data: str | None = None) -> requests.Response:
        return requests.request(
            method, self._url, data=data, headers=self._headers, timeout=DEADLINE
        )

    def _send(self, packet: str) -> None:
        self._request("POST", packet)

    def _read(self) -> None:
        try:
            while not self._closing:
                answer = self._request("GET")
                if answer.status_code != 200:
                    break
                for packet in answer.text.split(_SEPARATOR):
                    if packet == "1":
                        return
                    if packet not in ("", "6"):
                        self._take(packet)
        except requests.RequestException:
            pass
        finally:
            with self._changed:
                self.ended = time.monotonic()
                self._changed.notify_all()
