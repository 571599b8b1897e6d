"""HTTP/1.1 on Trio: an ASGI server, an upstream connection pool and an SSE codec.

Nothing in this room knows about LLMs, gateways or configuration. Parsers are sans-IO; sockets are touched in
`sockets.py`, `connection.py`, `upstream.py` and `dial.py` only.
"""
