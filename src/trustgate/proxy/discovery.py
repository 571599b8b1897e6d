"""Finding the gateway of a request (spec 02 §3): slug header, custom domain, or host below the base domain."""

from __future__ import annotations

import re

from trustgate.proxy.errors import Refusal
from trustgate.view.gateway import Directory, GatewayView

SLUG = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
PORT = re.compile(r"0*[0-9]{1,5}", re.ASCII)
PREFIX = "invalid auth request: "


class Unknown(Exception):
    """A well-formed slug that this directory does not know (yet): the log may."""

    def __init__(self, slug: str) -> None:
        super().__init__(slug)
        self.slug = slug


def refuse(detail: str) -> Refusal:
    return Refusal("invalid_auth_request", PREFIX + detail)


def unknown_gateway(slug: str) -> Refusal:
    return refuse(f'gateway "{slug}" is unknown')


def find_gateway(directory: Directory, header: bytes | None, host: bytes | None, base_domain: str) -> GatewayView:
    """The gateway's current view. Raises Unknown for a slug that is not there, Refusal for everything else."""
    if header:
        name = header.decode("latin-1").strip()
        if name:
            view = directory.by_slug(name)
            if view is not None:
                return view
            slug = name.lower()
            if SLUG.fullmatch(slug) is None:
                raise refuse("header X-AG-Gateway-Slug contains an invalid gateway slug")
            view = directory.by_slug(slug)
            if view is None:
                raise Unknown(slug)
            return view
    return by_host(directory, (host or b"").decode("latin-1"), base_domain)


def by_host(directory: Directory, host: str, base_domain: str) -> GatewayView:
    """`Host` equal to a gateway's own domain, else exactly one label below the base domain."""
    name = bare_host(host)
    view = directory.by_domain(name)
    if view is not None:
        return view
    suffix = "." + base_domain
    if not name.endswith(suffix):
        raise refuse("host must match {slug}." + base_domain)
    label = name[: -len(suffix)]
    if "." in label:
        raise refuse("host must contain exactly one gateway slug label")
    if SLUG.fullmatch(label) is None:
        raise refuse("host contains an invalid gateway slug")
    view = directory.by_slug(label)
    if view is None:
        raise Unknown(label)
    return view


def bare_host(host: str) -> str:
    """Lower-case host without port and outer dots. Raises Refusal."""
    name = host.strip().lower()
    if not name:
        raise refuse("host is required")
    if name.count(":") > 1:
        raise refuse("host is malformed")
    name, colon, port = name.partition(":")
    if colon and not (PORT.fullmatch(port) and 1 <= int(port[-5:]) <= 65535):
        raise refuse("host port is malformed")
    name = name.strip(".")
    if not name:
        raise refuse("host is required")
    return name
