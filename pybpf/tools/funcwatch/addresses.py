"""Where metrics go: a page of ours, or a collector. Pure."""

from __future__ import annotations

from ...dataclass import dataclass

__all__ = ["Address", "endpoint"]


@dataclass(frozen=True, slots=True)
class Address:
    """Say where the page is."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``[ADDR:]PORT``. Without an address, only this machine can ask.

        :raises ValueError: the text has another form
        """
        host, _, port = text.rpartition(":")
        if not port.isascii() or not port.isdigit() or not 0 <= int(port) < 1 << 16:
            raise ValueError(f"{text!r} is not [ADDR:]PORT")
        return cls(host.strip("[]") or "127.0.0.1", int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/metrics"


def endpoint(url: str) -> str:
    """Return the address to post to. If it has no path, the specification's path is added.

    :raises ValueError: it is not an http or https address
    """
    from urllib.parse import urlsplit, urlunsplit  # 5 ms

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"{url!r} is not an address such as http://HOST:4318")
    if parts.path in ("", "/"):
        parts = parts._replace(path="/v1/metrics")
    return urlunsplit(parts)
