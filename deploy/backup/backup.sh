#!/usr/bin/env bash
# Back up the database of TradeVerdict while it runs: `deploy/backup/backup.sh FILE`.
#
# DATABASE_URL is the owner's address (the service's own role cannot read the sequences). FILE is in pg_dump's custom
# format; beside it, FILE.counts says how many rows each table had at the very same moment, for restore.sh to check.
# Neither exists until it is whole. Exit codes: 0 done, 1 the backup failed, 2 usage, 3 the database cannot be reached.
set -euo pipefail
# shellcheck source=deploy/backup/address.sh
. "$(dirname "$0")/address.sh"

[ $# -eq 1 ] || fail "usage: backup.sh FILE, with the owner's address in DATABASE_URL" 2
[ -n "${DATABASE_URL:-}" ] || fail "DATABASE_URL: must be set to the owner's address" 2
file=$1
[ ! -e "$file" ] || fail "$file exists: backups are not written over" 2
mkdir -p "$(dirname "$file")"
umask 077 # decisions, hashes of keys

find_programs
reach "$DATABASE_URL"
require_new_enough
DUMP=$PG_DUMP ADDRESS_OF_DATABASE=$ADDRESS UNFINISHED=$file.unfinished
export DUMP ADDRESS_OF_DATABASE UNFINISHED
trap 'rm -f "$UNFINISHED" "$UNFINISHED.counts"' EXIT

# The dump and the counts share one snapshot: the session that exported it waits while pg_dump runs.
"$PSQL" --no-psqlrc -XAtq -v ON_ERROR_STOP=1 -F $'\t' -d "$ADDRESS" > "$UNFINISHED.counts" <<SQL
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT pg_export_snapshot() AS snapshot \gset
\setenv SNAPSHOT :snapshot
\! "\$DUMP" --format=custom --snapshot="\$SNAPSHOT" --no-owner --file="\$UNFINISHED" --dbname="\$ADDRESS_OF_DATABASE" || rm -f "\$UNFINISHED"
$COUNTS \gexec
COMMIT;
SQL
[ -s "$UNFINISHED" ] || fail "pg_dump failed"
"$PG_RESTORE" --list "$UNFINISHED" > /dev/null || fail "what pg_dump wrote cannot be read back"

mv "$UNFINISHED.counts" "$file.counts"
mv "$UNFINISHED" "$file"
printf '%s: %s bytes, %s rows in %s tables\n' "$file" "$(wc -c < "$file" | tr -d ' ')" \
  "$(awk -F'\t' '{ rows += $2 } END { print rows + 0 }' "$file.counts")" "$(wc -l < "$file.counts" | tr -d ' ')"
