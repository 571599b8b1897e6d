#!/usr/bin/env bash
# All checks and tests, with the tools found on PATH. Every step runs even when an earlier one failed; the tests come
# last, so that their summary ends the output. With CI=true a service that cannot be installed is a failure.
set -uo pipefail
cd "$(dirname "$0")/.."

failed=()
notes=()

step() {
    local name="$1"
    shift
    echo "== $name"
    "$@" || failed+=("$name")
}

if [ "${SKIP_SERVICES:-}" = 1 ]; then
    notes+=("services were not installed (SKIP_SERVICES=1)")
else
    log="$(mktemp)"
    echo "== services"
    if bash ops/services/install.sh > "$log" 2>&1; then
        tail -n 1 "$log"
    elif [ "${CI:-}" = true ]; then
        tail -n 20 "$log"
        failed+=("services")
    else
        tail -n 1 "$log"
        notes+=("services are not all installed: tests that need a missing one are skipped, and listed below")
    fi
    rm -f "$log"
fi

step "ruff check" ruff check .
step "ruff format" ruff format --check .
step "pyright" pyright
step "import rules" lint-imports

echo "== tests"
for note in "${notes[@]:-}"; do
    [ -n "$note" ] && echo "note: $note"
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed before the tests: ${failed[*]}"
fi
python -m pytest "$@"
status=$?
if [ ${#failed[@]} -gt 0 ]; then
    exit 1
fi
exit $status
