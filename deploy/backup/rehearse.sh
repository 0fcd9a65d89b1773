#!/usr/bin/env bash
# Rehearse a restore: `deploy/backup/rehearse.sh`. A backup that was never restored is a hope.
#
# Backs up DATABASE_URL, restores that into SCRATCH_DATABASE_URL (an empty database, on any server), and compares:
# the rows of every table, the calibration report of the last 365 days, the rights of the service's role, and the
# answers of the newest decisions, judged again from the copy (REPLAY_LIMIT, 1000 unless set). Run it while little is
# decided: what comes in between the backup and the reports makes them differ. The scratch database keeps its copy.
# TRADEVERDICT names the program (tradeverdict unless set). Exit codes: 0 all is equal, 1 not, 2 usage, 3 no database.
set -euo pipefail
here=$(dirname "$0")
# shellcheck source=deploy/backup/address.sh
. "$here/address.sh"

: "${TRADEVERDICT:=tradeverdict}" "${REPLAY_LIMIT:=1000}"
[ -n "${DATABASE_URL:-}" ] || fail "DATABASE_URL: must be set to the owner's address" 2
[ -n "${SCRATCH_DATABASE_URL:-}" ] || fail "SCRATCH_DATABASE_URL: must be set to an empty database's address" 2
[ "$SCRATCH_DATABASE_URL" != "$DATABASE_URL" ] || fail "SCRATCH_DATABASE_URL: is the database itself" 2
find_programs
umask 077
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$here/backup.sh" "$folder/backup"
DATABASE_URL=$SCRATCH_DATABASE_URL "$here/restore.sh" "$folder/backup"

calibration() { DATABASE_URL=$1 "$TRADEVERDICT" calibration --json --days 365; }
calibration "$DATABASE_URL" > "$folder/original.json"
calibration "$SCRATCH_DATABASE_URL" > "$folder/copy.json"
cmp -s "$folder/original.json" "$folder/copy.json" || fail "the calibration of the copy differs"
echo "calibration: the same, $(wc -c < "$folder/copy.json" | tr -d ' ') bytes"

reach "$SCRATCH_DATABASE_URL"
may() { "$PSQL" --no-psqlrc -XAtq -d "$ADDRESS" -c "SELECT has_table_privilege('tradeverdict_app', 'llm_decisions', '$1')"; }
rights="$(may SELECT) $(may INSERT) $(may UPDATE) $(may DELETE) $(may TRUNCATE)"
[ "$rights" = "t t f f f" ] || fail "the service's role has other rights in the copy: $rights"
echo "rights: the service may read and append decisions, and not change them"

DATABASE_URL=$SCRATCH_DATABASE_URL "$TRADEVERDICT" replay --limit "$REPLAY_LIMIT" || fail "answers of the copy differ"
echo "rehearsed: the backup can be restored"
