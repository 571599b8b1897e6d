#!/usr/bin/env bash
# From nothing to a first answer with curl and jq. Needs OPENAI_API_KEY and ADMIN_TOKEN (`trustgate token --tenant acme`).
# A second run makes another consumer and key on the same gateway.
set -euo pipefail

ADMIN_URL="${ADMIN_URL:-http://localhost:8080}"
PROXY_URL="${PROXY_URL:-http://localhost:8081}"
GATEWAY_SLUG="${GATEWAY_SLUG:-demo}"
MODEL="${MODEL:-gpt-4o-mini}"
PROVIDER="${PROVIDER:-openai}"
PROVIDER_OPTIONS="${PROVIDER_OPTIONS:-{\}}"

for tool in curl jq; do
    command -v "$tool" >/dev/null || { echo "$tool is needed" >&2; exit 1; }
done
: "${OPENAI_API_KEY:?set it to the provider key}"
: "${ADMIN_TOKEN:?make one with: trustgate token --tenant acme}"
for url in "$ADMIN_URL" "$PROXY_URL"; do
    curl -sf -o /dev/null "$url/healthz" || { echo "$url is not healthy" >&2; exit 1; }
done

post() { # post PATH BODY: the answer, or the error and the end
    local answer status
    answer="$(curl -s -w '\n%{http_code}' -X POST "$ADMIN_URL$1" -H "Authorization: Bearer $ADMIN_TOKEN" \
        -H 'Content-Type: application/json' -d "$2")"
    status="${answer##*$'\n'}"
    case "$status" in
        2*) printf '%s' "${answer%$'\n'*}" ;;
        *) echo "POST $1 answers $status: ${answer%$'\n'*}" >&2; return 1 ;;
    esac
}

run="$(date +%s)-$$"
gateway="$(curl -s "$ADMIN_URL/v1/gateways?search=$GATEWAY_SLUG" -H "Authorization: Bearer $ADMIN_TOKEN" |
    jq -c --arg slug "$GATEWAY_SLUG" '[.items[]? | select(.slug == $slug)][0] // empty')"
[ -n "$gateway" ] || gateway="$(post /v1/gateways "{\"slug\":\"$GATEWAY_SLUG\"}")"
scope="/v1/gateways/$(jq -r .id <<<"$gateway")"

registry="$(post "$scope/registries" "$(jq -nc --arg name "first-$run" --arg provider "$PROVIDER" \
    --arg key "$OPENAI_API_KEY" --argjson options "$PROVIDER_OPTIONS" \
    '{name: $name, provider: $provider, provider_options: $options, auth: {type: "api_key", api_key: {api_key: $key}}}')")"
consumer="$(post "$scope/consumers" "$(jq -nc --arg name "app-$run" --arg id "$(jq -r .id <<<"$registry")" \
    '{name: $name, registries: [{id: $id}]}')")"
auth="$(post "$scope/auths" "{\"name\":\"key-$run\",\"type\":\"api_key\"}")"
post "$scope/consumers/$(jq -r .id <<<"$consumer")/auths/$(jq -r .id <<<"$auth")" '' >/dev/null

slug="$(jq -r .slug <<<"$consumer")"
key="$(jq -r .api_key <<<"$auth")"
echo "gateway $GATEWAY_SLUG, consumer $slug, key $key" >&2
set -x
curl -sf "$PROXY_URL/$slug/v1/chat/completions" -H "X-AG-Gateway-Slug: $GATEWAY_SLUG" -H "X-AG-API-Key: $key" \
    -H 'Content-Type: application/json' -d "{\"model\":\"$MODEL\",\"messages\":[{\"role\":\"user\",\"content\":\"Hello!\"}]}"
