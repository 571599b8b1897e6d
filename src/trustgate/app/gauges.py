"""Numbers that parts of the process already keep, shown as metrics: pool, mailbox, log, health, connections.

Each is read when it is scraped and costs a request nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from trustgate.actors import supervisor
from trustgate.actors.follower import Follower
from trustgate.app.observer import EventObserver
from trustgate.app.parts import Parts
from trustgate.app.views import Views
from trustgate.balance.health import HealthStatus
from trustgate.telemetry.instruments import Gauge, Labels
from trustgate.telemetry.metrics import Metrics
from trustgate.view.gateway import GatewayView
from trustgate.wire.server import Server

if TYPE_CHECKING:
    from trustgate.sync.plane import DataPlane

Readings = Iterable[tuple[Labels, float]]


def watch_process(metrics: Metrics) -> None:
    metrics.add(
        Gauge(
            "trustgate_actor_restarts_total",
            "Actors that crashed and were started again.",
            lambda: [((name,), float(count)) for name, count in supervisor.restarts.items()],
            ("actor",),
            counter=True,
        )
    )


def watch_data_plane(metrics: Metrics, parts: Parts, views: Views) -> None:
    """What every process with a data plane has: upstream connections, registries' health."""

    def connections() -> Readings:
        found = parts.pool.statistics()
        return [(("busy",), found.busy), (("idle",), found.idle)]

    def opened() -> Readings:
        found = parts.pool.statistics()
        return [
            (("dialled",), found.dialled),
            (("reused",), found.reused),
            (("retried",), found.retried),
            (("timed_out",), found.timed_out),
            (("queue_full",), found.queue_full),
        ]

    def unhealthy() -> Readings:
        return registries_avoided(parts.health.statuses(), views.directory.views())

    add = metrics.add
    add(Gauge("trustgate_upstream_connections", "Connections to upstreams.", connections, ("state",)))
    add(
        Gauge(
            "trustgate_upstream_waiting",
            "Requests that wait for an upstream connection.",
            lambda: [((), parts.pool.statistics().waiting)],
        )
    )
    add(
        Gauge(
            "trustgate_upstream_connections_total",
            "How upstream connections were had, or not.",
            opened,
            ("how",),
            counter=True,
        )
    )
    add(
        Gauge(
            "trustgate_registry_unhealthy",
            "1 for registries that are avoided because they failed.",
            unhealthy,
            ("gateway", "registry"),
            highest=True,
        )
    )
    add(
        Gauge(
            "trustgate_gateways",
            "Gateways this plane serves.",
            lambda: [((), len(views.directory))],
            highest=True,
        )
    )


def watch_log(metrics: Metrics, follower: Follower) -> None:
    """How far this process has followed the log."""
    add = metrics.add
    add(
        Gauge(
            "trustgate_config_position",
            "Position in the event log up to which this plane has applied the configuration.",
            lambda: [((), follower.position)],
            highest=True,
        )
    )
    add(
        Gauge(
            "trustgate_config_lag_events",
            "Events of the log that were not yet applied at the last look.",
            lambda: [((), follower.lag)],
            highest=True,
        )
    )
    add(
        Gauge(
            "trustgate_store_silent_seconds",
            "Time since the event store last answered.",
            lambda: [((), follower.silent_s)],
            highest=True,
        )
    )


def watch_feed(metrics: Metrics, plane: DataPlane) -> None:
    """A data plane that a control plane feeds."""
    add, status = metrics.add, plane.status
    add(
        Gauge(
            "trustgate_config_sync_connected",
            "1 while a control plane would tell of a newer snapshot.",
            lambda: [((), float(status.streaming))],
        )
    )
    add(
        Gauge(
            "trustgate_config_sync_age_seconds",
            "For how long no control plane has said that the snapshot in use is the newest.",
            lambda: [((), status.age_s(time.time()))] if status.version else [],
            highest=True,
        )
    )
    add(
        Gauge(
            "trustgate_config_sync_applied_total",
            "Snapshots put to use.",
            lambda: [((), plane.position)],
            counter=True,
        )
    )


def registries_avoided(statuses: Iterable[HealthStatus], views: Iterable[GatewayView]) -> Readings:
    """1 for each registry that is avoided, 0 for one that failed before; what is known of deleted ones is not told."""
    known = {status.registry_id: status for status in statuses}
    if not known:
        return
    for view in views:
        registries = view.state.registries
        for id_ in known.keys() & registries.keys():
            yield (view.identity.slug, registries[id_].name), 0.0 if known[id_].healthy else 1.0


def watch_observer(metrics: Metrics, observer: EventObserver) -> None:
    """The queue of request records, and each exporter's."""

    def records() -> Readings:
        found = observer.statistics()[0]
        return [(("built",), found.built), (("dropped",), found.dropped), (("failed",), found.failed)]

    def exported() -> Readings:
        for outlet in observer.statistics()[1]:
            for result in ("published", "dropped", "failed", "retries"):
                yield (outlet.type, outlet.name, outlet.view, result), getattr(outlet, result)

    def queued() -> Readings:
        publisher, outlets = observer.statistics()
        yield ("records", "", ""), publisher.queued
        for outlet in outlets:
            yield (outlet.type, outlet.name, outlet.view), outlet.queued

    add = metrics.add
    add(
        Gauge(
            "trustgate_telemetry_records_total",
            "Request records by what became of them; dropped ones found the queue full.",
            records,
            ("result",),
            counter=True,
        )
    )
    add(
        Gauge(
            "trustgate_exporter_records_total",
            "Records of each exporter by what became of them.",
            exported,
            ("type", "exporter", "view", "result"),
            counter=True,
        )
    )
    add(
        Gauge(
            "trustgate_telemetry_queue",
            "Records that wait: to be made (`records`), or to be exported.",
            queued,
            ("type", "exporter", "view"),
        )
    )
    add(
        Gauge(
            "trustgate_exporter_up",
            "1 while an exporter's sink is reached.",
            lambda: [((one.type, one.name, one.view), float(one.connected)) for one in observer.statistics()[1]],
            ("type", "exporter", "view"),
            highest=True,
        )
    )


def watch_server(metrics: Metrics, server: Server, plane: str) -> None:
    """Connections of clients to one of our own servers."""

    def connections() -> Readings:
        found = server.statistics()
        return [(("open",), found.connections), (("busy",), found.busy)]

    def events() -> Readings:
        found = server.statistics()
        return [
            (("accepted",), found.accepted),
            (("requests",), found.requests),
            (("refused",), found.refusals),
            (("disconnected",), found.disconnects),
            (("over_limit",), found.over_limit),
        ]

    metrics.add(Gauge(f"trustgate_{plane}_connections", "Client connections.", connections, ("state",), plane=plane))
    metrics.add(
        Gauge(
            f"trustgate_{plane}_connection_events_total",
            "What happened on client connections.",
            events,
            ("event",),
            plane=plane,
            counter=True,
        )
    )
