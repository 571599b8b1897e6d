"""Making upstream connections: DNS off the loop with a short cache, happy eyeballs, CONNECT proxies, TLS.

Nothing here knows about pools or responses. All of it runs under the caller's cancel scope.
"""

import base64
import functools
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec
import trio

from trustgate.wire import sockets
from trustgate.wire.errors import ConnectFailed, TlsFailed

_STAGGER_S: Final = 0.25  # RFC 8305 §5: connection attempt delay
_MAX_CACHED_NAMES: Final = 4096
_MAX_PROXY_HEAD: Final = 16384

Address = tuple[int, Any]  # (family, sockaddr)


class Proxies(msgspec.Struct, frozen=True):
    """Which proxy serves which origin; the usual environment variables in both spellings."""

    http: str = ""
    https: str = ""
    exempt: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> "Proxies":
        def read(name: str) -> str:
            return env.get(name.lower()) or env.get(name, "")

        return cls(
            http=env.get("http_proxy", "") or env.get("HTTP_PROXY", ""),
            https=read("HTTPS_PROXY"),
            exempt=tuple(part.strip().lower() for part in read("NO_PROXY").split(",") if part.strip()),
        )

    def choose(self, scheme: str, host: str, port: int) -> str:
        """The proxy URL for an origin, "" for a direct connection."""
        url = self.https if scheme == "https" else self.http
        if not url or host == "localhost" or _is_loopback(host):
            return ""
        return "" if any(_exempts(rule, host, port) for rule in self.exempt) else url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _exempts(rule: str, host: str, port: int) -> bool:
    if rule == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(rule, strict=False)
    except (ValueError, TypeError):
        name, _, rule_port = rule.partition(":")
        if rule_port and rule_port != str(port):
            return False
        bare = name.removeprefix("*").lstrip(".")
        return (host == bare and not name.startswith(".")) or host.endswith("." + bare)


@functools.cache
def tls_context(ca_file: str, *, verify: bool) -> ssl.SSLContext:
    """Client settings: the system's authorities plus `ca_file`, SNI, HTTP/1.1 only. Loaded once per process."""
    context = ssl.create_default_context()
    if ca_file:
        context.load_verify_locations(cafile=ca_file)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


class Dialer:
    """Mutable state: the name cache and the lookups under way."""

    def __init__(
        self,
        *,
        tls: ssl.SSLContext,
        proxies: Proxies,
        dns_ttl_s: float,
        admits: Callable[[str], bool] | None = None,
    ) -> None:
        """`admits` judges the very addresses that are connected to; None admits all."""
        self._tls = tls
        self._admits = admits
        self._proxies = proxies
        self._ttl = dns_ttl_s
        self._names: dict[tuple[str, int], tuple[float, list[Address]]] = {}
        self._lookups: dict[tuple[str, int], trio.Event] = {}

    async def dial(self, scheme: str, host: str, port: int) -> socket.socket:
        """A connected non-blocking socket, TLS done. Raises ConnectFailed or TlsFailed; cancellation closes it."""
        proxy = self._proxies.choose(scheme, host, port)
        if proxy:
            sock = await self._through_proxy(proxy, host, port)
        else:
            sock = await self._connect(host, port)
        if scheme != "https":
            return sock
        return await self._handshake(sock, host)

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Addresses in the order to try; one lookup at a time per name. Raises ConnectFailed("dns")."""
        key = (host, port)
        while True:
            cached = self._names.get(key)
            if cached is not None and cached[0] > trio.current_time():
                return cached[1]
            running = self._lookups.get(key)
            if running is None:
                break
            await running.wait()
        self._lookups[key] = running = trio.Event()
        try:
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            if cached is not None:  # a name server's hiccup should not take down what worked a moment ago
                return cached[1]
            raise ConnectFailed("dns", f"cannot resolve {host}") from error
        finally:
            del self._lookups[key]
            running.set()
        addresses = _interleave([(int(family), sockaddr) for family, _, _, _, sockaddr in found])
        if len(self._names) >= _MAX_CACHED_NAMES:
            self._names.clear()
        self._names[key] = (trio.current_time() + self._ttl, addresses)
        return addresses

    async def _connect(self, host: str, port: int) -> socket.socket:
        addresses = await self.resolve(host, port)
        if self._admits is not None and not all(self._admits(str(sockaddr[0])) for _, sockaddr in addresses):
            raise ConnectFailed("refused", f"{host} is not an address that may be connected to")
        if len(addresses) == 1:
            return await _connect_to(addresses[0])
        return await _race(addresses)

    async def _handshake(self, sock: socket.socket, host: str) -> socket.socket:
        try:
            tls = self._tls.wrap_socket(
                sock, server_hostname=host, do_handshake_on_connect=False, suppress_ragged_eofs=False
            )
        except BaseException:
            sockets.close(sock)
            raise
        try:
            while True:
                try:
                    tls.do_handshake()
                    return tls
                except ssl.SSLWantReadError:
                    await trio.lowlevel.wait_readable(tls)
                except ssl.SSLWantWriteError:
                    await trio.lowlevel.wait_writable(tls)
        except ssl.SSLCertVerificationError as error:
            sockets.close(tls)
            raise TlsFailed(f"certificate verification failed: {error.verify_message}") from error
        except (OSError, trio.ClosedResourceError) as error:
            sockets.close(tls)
            reason = error.reason if isinstance(error, ssl.SSLError) else None
            raise TlsFailed(f"TLS handshake failed: {reason or 'connection closed'}") from error
        except BaseException:
            sockets.close(tls)
            raise

    async def _through_proxy(self, url: str, host: str, port: int) -> socket.socket:
        parts = urlsplit(url if "://" in url else "http://" + url)
        if parts.scheme != "http" or not parts.hostname:
            raise ConnectFailed("proxy", "only http:// proxies are supported")
        sock = await self._connect(parts.hostname, parts.port or 80)
        try:
            authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
            if parts.username is not None:
                pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
                lines.append("Proxy-Authorization: Basic " + base64.b64encode(pair.encode()).decode())
            await sockets.send_all(sock, ("\r\n".join(lines) + "\r\n\r\n").encode())
            await _read_proxy_answer(sock)
        except OSError as error:
            sockets.close(sock)
            raise ConnectFailed("proxy", "the proxy closed the connection") from error
        except BaseException:
            sockets.close(sock)
            raise
        return sock


async def _read_proxy_answer(sock: socket.socket) -> None:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        # One byte at a time near the end would be needed to leave the tunnel's bytes alone; a server speaks only after
        # our ClientHello, so nothing can follow the head.
        data = await sockets.receive(sock, 4096)
        head += data
        if not data or len(head) > _MAX_PROXY_HEAD:
            raise ConnectFailed("proxy", "the proxy did not answer CONNECT")
    words = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or words[1][:1] != b"2" or len(words[1]) != 3:
        raise ConnectFailed("proxy", "the proxy refused CONNECT")


def _interleave(addresses: Sequence[Address]) -> list[Address]:
    """Alternate families, the resolver's first family first (RFC 8305 §4)."""
    first = [address for address in addresses if address[0] == addresses[0][0]]
    second = [address for address in addresses if address[0] != addresses[0][0]]
    mixed: list[Address] = []
    for index in range(max(len(first), len(second))):
        mixed += first[index : index + 1] + second[index : index + 1]
    return mixed


async def _connect_to(address: Address) -> socket.socket:
    family, sockaddr = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.connect(sockaddr)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code)) from None
    except ConnectionRefusedError as error:
        sockets.close(sock)
        raise ConnectFailed("refused", "connection refused") from error
    except OSError as error:
        sockets.close(sock)
        raise ConnectFailed("unreachable", error.strerror or "cannot connect") from error
    except BaseException:
        sockets.close(sock)
        raise
    return sock


async def _race(addresses: Sequence[Address]) -> socket.socket:
    """Happy eyeballs: each attempt gets a head start over the next; the first to connect wins, the others close."""
    winners: list[socket.socket] = []
    failures: list[ConnectFailed] = []

    async def attempt(address: Address, failed: trio.Event, scope: trio.CancelScope) -> None:
        try:
            sock = await _connect_to(address)
        except ConnectFailed as failure:
            failures.append(failure)
            failed.set()
            return
        winners.append(sock)
        scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed, nursery.cancel_scope)
                with trio.move_on_after(_STAGGER_S):
                    await failed.wait()
    except BaseException:
        for sock in winners:
            sockets.close(sock)
        raise
    for sock in winners[1:]:
        sockets.close(sock)
    if winners:
        return winners[0]
    raise failures[-1]
