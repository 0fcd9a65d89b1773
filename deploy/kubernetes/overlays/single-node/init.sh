#!/bin/sh
# Runs once, when the database of docker-compose.yml is created: the role that the service connects as.
# Migrations grant its group, tradeverdict_app, what the service needs.
psql -v ON_ERROR_STOP=1 -v password="$TRADEVERDICT_API_PASSWORD" -U "$POSTGRES_USER" -d "$POSTGRES_DB" <<'SQL'
CREATE ROLE tradeverdict_app NOLOGIN;
CREATE ROLE tradeverdict_api LOGIN PASSWORD :'password' IN ROLE tradeverdict_app;
SQL
