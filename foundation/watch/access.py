"""Who may ask: only a page that this server gave, in a browser that was shown the address with its token.

The server listens on the loopback interface, which every user and every web page of the machine can reach. A page of
another site is told by the headers that browsers send and scripts cannot forge (Fetch Metadata, Origin); one that has
pointed its own name at 127.0.0.1 (DNS rebinding) by the Host that it asks for; another user of the machine by the
token.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from email.message import Message
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit


@dataclass
class Access:
    """The rules of one server.

    Attributes:
        port: it listens on.
        token: whoever knows it may look.
    """

    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    _tickets: set[str] = field(default_factory=set, repr=False)

    @property
    def cookie(self) -> str:
        """Name of the cookie: cookies do not tell ports apart."""
        return f"foundation-watch-{self.port}"

    def refusal(self, target: str, headers: Message) -> str | None:
        """Why a request is refused; None where it is not.

        Args:
            target: path and query.
            headers: of the request.
        """
        hosts = (f"127.0.0.1:{self.port}", f"localhost:{self.port}")
        given = headers.get_all("Host", [])
        if len(given) != 1 or given[0] not in hosts:
            return f"this page is only served as http://{hosts[0]}/ or http://{hosts[1]}/; forward the same port"
        origin = headers.get("Origin")
        if origin is not None and origin not in [f"http://{host}" for host in hosts]:
            return "another site asked for it"
        by_address = self.by_address(target)
        site = headers.get("Sec-Fetch-Site", "none")
        # A link in a terminal of the browser's own (as code-server has) comes from another site, and has the token.
        followed = by_address and headers.get("Sec-Fetch-Dest") == "document"
        if site not in ("same-origin", "none") and not followed:
            return "another site asked for it"
        if not by_address and not self._by_cookie(headers.get("Cookie", "")):
            return "the token is missing or not the right one: open the address that foundation watch has printed"
        return None

    def ticket(self) -> str:
        """A word that opens the page once: every user of the machine sees the command lines of browsers."""
        made = secrets.token_urlsafe(24)
        self._tickets.add(made)
        return made

    def by_address(self, target: str) -> bool:
        """Whether a target holds the token, or a ticket that nobody has used."""
        query = parse_qs(urlsplit(target).query)
        given = query.get("token", [""])[0]
        by_token = hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())
        return by_token or query.get("ticket", [""])[0] in self._tickets

    def spend(self, target: str) -> None:
        """The ticket in a target has been used."""
        self._tickets.discard(parse_qs(urlsplit(target).query).get("ticket", [""])[0])

    def _by_cookie(self, text: str) -> bool:
        try:
            found = SimpleCookie(text).get(self.cookie)
        except CookieError:
            return False
        return found is not None and hmac.compare_digest(found.value.encode("utf-8", "replace"), self.token.encode())

    @property
    def set_cookie(self) -> str:
        """Header that makes a browser remember the token until it is closed."""
        return f"{self.cookie}={self.token}; HttpOnly; SameSite=Strict; Path=/"
