#!/usr/bin/env bash
# Run every test with full example counts, none skipped, and keep what was printed: docs/evidence/<group>.txt,
# one group for each folder of tests/ and one, `ground`, for the files directly in it. Called by `make prove`.
set -uo pipefail
cd "$(dirname "$0")/.."
: "${PYTEST:=.venv/bin/python -m pytest}"
export PROVE=1 NO_SKIPS=1

failed=()
prove() { # group, then what to run
  local group=$1; shift
  printf '\n== %s\n' "$group"
  { echo "\$ PROVE=1 NO_SKIPS=1 pytest -n 2 -rA $*"; $PYTEST -n 2 -rA "$@" 2>&1; } \
    | sed "s|$PWD|.|g; s|$HOME|~|g" | tee "docs/evidence/$group.txt"
  [ "${PIPESTATUS[0]}" -eq 0 ] || failed+=("$group")
}

mkdir -p docs/evidence
for folder in tests/*/; do
  compgen -G "${folder}test_*.py" >/dev/null && prove "$(basename "$folder")" "${folder%/}"
done
prove ground tests/test_*.py

# Speed and size, each measured side by side in one run; nothing of it is asserted.
for bench in calibration_scale workers memory overhead judge client_import export_scale; do
  printf '\n== %s\n' "$bench"
  { echo "\$ .venv/bin/python bench/$bench.py"; "${PYTEST%% *}" "bench/$bench.py" 2>&1; } | tee "docs/evidence/$bench.txt"
  [ "${PIPESTATUS[0]}" -eq 0 ] || failed+=("$bench")
done

[ ${#failed[@]} -eq 0 ] || { echo "Failed: ${failed[*]}" >&2; exit 1; }
