"""Tell whether an address is on this machine."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address (IPv6 also in brackets) is this machine's loopback."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_here(url: str) -> bool:
    """Tell whether a URL's host is this machine."""
    return is_loopback(urlsplit(url).hostname or "")
