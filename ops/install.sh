#!/usr/bin/env bash
# One-line installer: clones or updates TrustGate, seeds .env (never overwriting one), links the command, starts it.
#   AG_REPO_URL  repository to clone (required unless AG_DIR already holds one)
#   AG_REF       branch or tag (main)          AG_DIR      where to (./trustgate)
#   AG_BIN_DIR   where the command is linked (~/.local/bin)
#   AG_INSTALL_CLI=0  no command               AG_NO_START=1  do not start the containers
set -euo pipefail

ref="${AG_REF:-main}"
dir="${AG_DIR:-$PWD/trustgate}"
bin="${AG_BIN_DIR:-$HOME/.local/bin}"

need() { command -v "$1" >/dev/null || { echo "$1 is needed" >&2; exit 1; }; }
need git
if [ "${AG_NO_START:-0}" != 1 ]; then
    need docker
    docker compose version >/dev/null 2>&1 || { echo "docker compose is needed" >&2; exit 1; }
fi

if [ -d "$dir/.git" ]; then
    git -C "$dir" fetch -q --tags origin "$ref"
    git -C "$dir" checkout -q "$ref"
    git -C "$dir" merge -q --ff-only FETCH_HEAD
else
    git clone -q --branch "$ref" "${AG_REPO_URL:?set it to the repository to clone}" "$dir"
fi
cd "$dir"
bash ops/make-env.sh

if [ "${AG_INSTALL_CLI:-1}" != 0 ]; then
    make --no-print-directory .venv/.installed
    mkdir -p "$bin"
    ln -sf "$dir/.venv/bin/trustgate" "$bin/trustgate"
    echo "command: $bin/trustgate"
fi
if [ "${AG_NO_START:-0}" = 1 ]; then
    echo "start it with: make -C $dir up"
else
    make --no-print-directory up
fi
