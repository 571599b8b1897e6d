"""TLS that is not the upstream pool's: the shared context of control-path calls, and clients' certificates.

The context is shared because every context of its own holds all authorities, 2 MB a client.
"""

import ssl
from contextvars import ContextVar
from functools import cache


@cache
def client_tls() -> ssl.SSLContext:
    """Verifies servers by the system's authorities (`SSL_CERT_FILE`, `SSL_CERT_DIR`). Never change it."""
    return ssl.create_default_context()


peer_certificate: ContextVar[bytes | None] = ContextVar("peer_certificate", default=None)
"""DER of the certificate that the client of this connection's tasks has shown; None without TLS, or without one."""


class CertifiedObject(ssl.SSLObject):
    """A server's TLS object that remembers the client's certificate for the tasks of its connection.

    The handshake runs in the connection's own task, from which the tasks that answer its requests are started.
    """

    def do_handshake(self) -> None:
        super().do_handshake()
        peer_certificate.set(self.getpeercert(True))
