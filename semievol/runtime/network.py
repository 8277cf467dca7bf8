"""Tell whether an address is on this machine, and whether a proxy stands before it."""

from __future__ import annotations

import ipaddress
import os
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


def proxy_of(url: str) -> tuple[str, str] | None:
    """Return the variable that sends requests for a URL through a proxy, and the proxy's host and port; None without one."""
    from requests.utils import get_environ_proxies, select_proxy

    proxy = select_proxy(url, get_environ_proxies(url))
    if not proxy:
        return None
    variables = [name for name in os.environ if name.lower().endswith("_proxy") and os.environ[name] == proxy]
    of_scheme = [name for name in variables if name.lower() == f"{urlsplit(url).scheme}_proxy"]
    address = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return (of_scheme or variables or ["the system's settings"])[0], address.netloc.rpartition("@")[2]


def connect_directly(url: str) -> None:
    """Take the host of a URL out of the proxies of this process if it is this machine: no proxy reaches that."""
    if is_here(url):
        hosts = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        host = urlsplit(url).hostname or ""
        if host not in hosts.split(","):
            os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"{hosts},{host}".lstrip(",")
