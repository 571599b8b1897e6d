#!/usr/bin/env bash
# Makes .env from .env.example with a fresh server secret. An existing .env is never touched.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -e .env ] && exit 0
secret="$(head -c 32 /dev/urandom | base64 | tr -d '\n')"
(umask 077 && sed "s|^SERVER_SECRET_KEY=.*|SERVER_SECRET_KEY=$secret|" .env.example > .env)
echo "made .env"
