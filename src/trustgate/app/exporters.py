"""The exporters of a process: which ones each gateway's records go to, and the life of their outlets (spec 06 §11)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import structlog

from trustgate.app.storage import database_config
from trustgate.domain import secrets
from trustgate.settings import Settings
from trustgate.telemetry.exporter_config import ExporterConfig, gateway_exporters, merge
from trustgate.telemetry.exporters import TYPES, Environment
from trustgate.telemetry.networks import Fence
from trustgate.telemetry.outlet import Outlet, OutletStatistics
from trustgate.telemetry.publisher import Routing
from trustgate.view.gateway import GatewayView

Json = dict[str, Any]
CLOSE_S = 10.0
"""Time an exporter has to deliver what is queued when nothing names it any more."""

log = structlog.get_logger("trustgate.telemetry")


def fence(settings: Settings) -> Fence:
    """Where tenants' exporters may connect to: in development also to this machine and its network."""
    networks = settings.telemetry.tenant_networks
    return Fence(networks, private=not networks and not settings.deployed)


def environment(settings: Settings, variables: Mapping[str, str] = os.environ) -> Environment:
    telemetry, otlp = settings.telemetry, settings.otlp
    return Environment(
        kafka_brokers=telemetry.kafka_brokers,
        kafka_topic=telemetry.kafka_topic,
        otlp_endpoint=otlp.endpoint,
        otlp_protocol=otlp.protocol,
        otlp_headers=dict(pair.split("=", 1) for pair in otlp.headers.split(",") if "=" in pair),
        otlp_timeout_s=otlp.timeout_s,
        otlp_insecure=otlp.insecure,
        otlp_compression=otlp.compression,
        raw_dsn=telemetry.raw_dsn,
        database=(lambda: database_config(settings).arguments()) if settings.database.configured else None,
        variables=variables,
        fence=fence(settings),
    )


class Exporters:
    """Routing by gateway. Used by the thread that serves requests; a `Watcher` of views.

    Mutable: outlets by exact config, shared by all gateways; routings of gateways that had traffic, each with the
    stored telemetry it was made from; outlets that are finishing.
    """

    def __init__(self, defaults: tuple[ExporterConfig, ...], environment: Environment) -> None:
        self._defaults = defaults
        self._environment = environment
        self._outlets: dict[bytes, Outlet] = {}
        self._routings: dict[str, tuple[Any, Routing]] = {}
        self._leaving: list[Outlet] = []
        self._default = self._routing_of(merge(defaults, ()))

    def routing(self, view: GatewayView) -> Routing:
        """Where the records of a gateway go."""
        found = self._routings.get(view.id)
        return found[1] if found is not None else self._route(view)

    def _route(self, view: GatewayView) -> Routing:
        telemetry = view.identity.entity.telemetry
        own = gateway_exporters(secrets.replace(telemetry, lambda ref: view.reveal(ref[secrets.REF])))
        routing = self._routing_of(merge(self._defaults, own)) if own else self._default
        if telemetry is not None and telemetry.get("capture_bodies") is False:
            routing = Routing(metadata=routing.metadata)
        self._routings[view.id] = (telemetry, routing)
        return routing

    def _routing_of(self, configs: list[ExporterConfig]) -> Routing:
        outlets = [(config.raw, self._outlet(config)) for config in configs]
        return Routing(
            metadata=tuple(outlet for raw, outlet in outlets if not raw),
            raw=tuple(outlet for raw, outlet in outlets if raw),
        )

    def _outlet(self, config: ExporterConfig) -> Outlet:
        found = self._outlets.get(config.key)
        if found is None:
            type_ = TYPES[config.type]
            found = Outlet(
                config.name, config.type, type_.manner(config.raw), lambda: type_.open(config, self._environment)
            )
            self._outlets[config.key] = found
        return found

    def update(self, view: GatewayView) -> None:
        """Follow an edit of a gateway that had traffic; exporters that it left as they were stay connected."""
        known = self._routings.get(view.id)
        if known is not None and known[0] != view.identity.entity.telemetry:
            self._route(view)
            self._retire()

    def forget(self, gateway_id: str) -> None:
        if self._routings.pop(gateway_id, None) is not None:
            self._retire()

    def _retire(self) -> None:
        """Let go of outlets that no routing names: they deliver what they have, beside everything else."""
        routings = [self._default, *(routing for _, routing in self._routings.values())]
        used = {outlet for routing in routings for outlet in (*routing.metadata, *routing.raw)}
        for key, outlet in list(self._outlets.items()):
            if outlet not in used:
                del self._outlets[key]
                outlet.begin_close(CLOSE_S)
                self._leaving.append(outlet)
        self._leaving = [outlet for outlet in self._leaving if outlet.alive]

    def statistics(self) -> list[OutletStatistics]:
        return [outlet.statistics() for outlet in self._outlets.values()]

    def close(self, timeout_s: float) -> None:
        """Deliver what is queued, all outlets at the same time, at most for this long. Blocks."""
        outlets = [*self._outlets.values(), *self._leaving]
        for outlet in outlets:
            outlet.begin_close(timeout_s)
        for outlet in outlets:
            outlet.finish_close()
