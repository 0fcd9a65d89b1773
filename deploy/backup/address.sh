# Sourced by the scripts beside it: where PostgreSQL's programs are, and how they reach a database.

say() { printf '%s: %s\n' "$(basename "$0")" "$1" >&2; }
fail() { say "$1"; exit "${2:-1}"; }

# Set PSQL, PG_DUMP and PG_RESTORE: from the folder that PG_BIN names, else from the PATH.
find_programs() {
  PSQL=$(program psql) && PG_DUMP=$(program pg_dump) && PG_RESTORE=$(program pg_restore) || exit
}

program() {
  if [ -n "${PG_BIN:-}" ]; then
    [ -x "$PG_BIN/$1" ] || fail "PG_BIN=$PG_BIN: no $1 there" 2
    printf '%s' "$PG_BIN/$1"
  else
    command -v "$1" || fail "$1 is not installed: install PostgreSQL's client programs, or set PG_BIN" 2
  fi
}

# Take the password out of an address, because everyone on the machine can read the arguments of a program.
# Sets ADDRESS, and PGPASSWORD where the address has one.
reach() {
  local url="${1/#postgresql+asyncpg:/postgresql:}" written
  case $url in postgresql://* | postgres://*) ;; *) fail "the address must start with postgresql://" 2 ;; esac
  ADDRESS=$url
  unset PGPASSWORD
  if [[ $url =~ ^([a-z]+://[^:/@?]+):([^@/?]*)@(.*)$ ]]; then
    ADDRESS="${BASH_REMATCH[1]}@${BASH_REMATCH[3]}"
    written="${BASH_REMATCH[2]//\\/\\\\}"
    PGPASSWORD=$(printf '%b' "${written//%/\\x}")
    export PGPASSWORD
  fi
}

# pg_dump and pg_restore must be at least as new as the server.
require_new_enough() {
  local ours theirs
  ours=$("$PG_DUMP" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
  theirs=$("$PSQL" --no-psqlrc -XAtq -d "$ADDRESS" -c 'SHOW server_version_num') || fail "the database cannot be reached" 3
  theirs=$((theirs / 10000))
  [ "$ours" -ge "$theirs" ] || fail "pg_dump is of PostgreSQL $ours, the server of $theirs: set PG_BIN to programs of $theirs or newer" 2
}

# SQL that writes `table<TAB>rows` for every table, in the order of their names.
COUNTS="SELECT format('SELECT %L, count(*) FROM %I.%I', table_name, table_schema, table_name)
  FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'
  ORDER BY table_name COLLATE \"C\""
