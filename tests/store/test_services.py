"""The services that tests run against answer."""

import socket
import urllib.parse

import psycopg


def test_postgres_answers_in_a_database_of_its_own(postgres_database: str) -> None:
    with psycopg.connect(postgres_database) as connection:
        assert connection.execute("SELECT current_database()").fetchone() == (
            urllib.parse.urlsplit(postgres_database).path[1:],
        )


def test_redis_answers(redis_url: str) -> None:
    parts = urllib.parse.urlsplit(redis_url)
    with socket.create_connection((parts.hostname, parts.port), timeout=2) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(16) == b"+PONG\r\n"


def test_kafka_answers(kafka_bootstrap: str) -> None:
    host, port = kafka_bootstrap.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=2):
        pass


def test_chromium_is_there(chromium: str) -> None:
    assert chromium
