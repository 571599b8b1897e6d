"""The TLS context of control-path calls, shared: every context of its own holds all authorities, 2 MB a client."""

import ssl
from functools import cache


@cache
def client_tls() -> ssl.SSLContext:
    """Verifies servers by the system's authorities (`SSL_CERT_FILE`, `SSL_CERT_DIR`). Never change it."""
    return ssl.create_default_context()
