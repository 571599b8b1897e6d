"""How to connect to PostgreSQL (spec 06 §3.3).

What lives here: the `DB_*` variables as values, IAM passwords. What must not: connections, and the driver's import.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import msgspec


class PostgresConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The `DB_*` variables. `password_source`, when given, is asked for a password for each new connection."""

    host: str = "localhost"
    port: int = 5432
    user: str = "trustgate"
    password: str = "postgres"
    dbname: str = "trustgate"
    sslmode: str = "disable"
    sslrootcert: str = ""
    min_conns: int = 1
    max_conns: int = 10
    max_conn_lifetime_s: float = 3600.0
    max_conn_idle_s: float = 1800.0
    connect_timeout_s: float = 5.0
    password_source: Callable[[], str] | None = None

    @classmethod
    def of_dsn(cls, dsn: str) -> PostgresConfig:
        """From `postgresql://user:password@host:port/dbname?sslmode=…`."""
        from psycopg.conninfo import conninfo_to_dict

        parts = conninfo_to_dict(dsn)
        return cls(
            host=str(parts.get("host") or "localhost"),
            port=int(parts.get("port") or 5432),
            user=str(parts.get("user") or "trustgate"),
            password=str(parts.get("password") or ""),
            dbname=str(parts.get("dbname") or "trustgate"),
            sslmode=str(parts.get("sslmode") or "disable"),
            sslrootcert=str(parts.get("sslrootcert") or ""),
        )

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of a libpq connection."""
        arguments: dict[str, Any] = {
            "dbname": self.dbname,
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password_source() if self.password_source else self.password,
            "sslmode": self.sslmode,
            "connect_timeout": max(1, round(self.connect_timeout_s)),
            "application_name": "trustgate",
            # A peer that vanished without a word is noticed after half a minute.
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
        }
        if self.sslrootcert:
            arguments["sslrootcert"] = self.sslrootcert
        return arguments


def aws_region(session: Any) -> str:
    """The region of a botocore session, which by itself does not read `AWS_REGION`."""
    return os.environ.get("AWS_REGION") or session.get_config_variable("region") or ""


def aws_password_source(config: PostgresConfig) -> Callable[[], str]:
    """RDS IAM tokens for `config` (POSTGRES_LOGIN=aws); region and credentials from the standard AWS chain.

    Raises ValueError when no region is configured or TLS is off.
    """
    from botocore.session import get_session

    if config.sslmode not in ("require", "verify-ca", "verify-full"):
        raise ValueError("DB_SSL_MODE must be require, verify-ca or verify-full with POSTGRES_LOGIN=aws")
    session = get_session()
    region = aws_region(session)
    if not region:
        raise ValueError("POSTGRES_LOGIN=aws needs an AWS region")

    def token() -> str:
        client = session.create_client("rds", region_name=region)
        return client.generate_db_auth_token(config.host, config.port, config.user)

    return token
