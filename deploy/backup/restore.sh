#!/usr/bin/env bash
# Restore a backup of TradeVerdict into an empty database: `deploy/backup/restore.sh FILE`.
#
# DATABASE_URL is the owner's address of the database to fill; it must exist and be empty: nothing is ever overwritten.
# The role that the service acts as is made where the server lacks it (backups hold its rights, not the role). All of
# it is one transaction, and the rows are counted against FILE.counts.
# Exit codes: 0 done, 1 the restore failed and left nothing, or the counts differ, 2 usage, 3 no database there.
set -euo pipefail
# shellcheck source=deploy/backup/address.sh
. "$(dirname "$0")/address.sh"

[ $# -eq 1 ] || fail "usage: restore.sh FILE, with the owner's address in DATABASE_URL" 2
[ -n "${DATABASE_URL:-}" ] || fail "DATABASE_URL: must be set to the owner's address" 2
file=$1
[ -s "$file" ] || fail "$file: no such backup" 2
[ -f "$file.counts" ] || fail "$file.counts is missing: without it nobody can tell whether all is there" 2

find_programs
reach "$DATABASE_URL"
require_new_enough
psql=("$PSQL" --no-psqlrc -XAtq -v ON_ERROR_STOP=1 -F $'\t' -d "$ADDRESS")
[ "$("${psql[@]}" -c "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'")" = 0 ] \
  || fail "the database is not empty, and nothing is restored over what is there: make a new one" 2

"${psql[@]}" <<'SQL'
SELECT 'CREATE ROLE tradeverdict_app NOLOGIN'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tradeverdict_app') \gexec
SQL
"$PG_RESTORE" --exit-on-error --single-transaction --no-owner --dbname="$ADDRESS" "$file" \
  || fail "the restore failed, and left nothing behind"

found=$("${psql[@]}" <<< "$COUNTS \gexec")
if [ "$found" != "$(cat "$file.counts")" ]; then
  diff <(printf '%s\n' "$found") "$file.counts" >&2 || true
  fail "the counts differ from those of the backup (< restored, > backed up)"
fi
"${psql[@]}" -c 'ANALYZE'
printf '%s: every table has as many rows as when it was backed up\n' "$file"
