#!/bin/sh
# PostgreSQL as the image postgres:15 starts it: a database of its own, POSTGRES_DB with POSTGRES_USER as owner, and in it what
# /docker-entrypoint-initdb.d says.
set -eu

bin=$(echo /usr/lib/postgresql/*/bin)
data=/var/lib/postgresql/data
sockets=/var/run/postgresql
as() { setpriv --reuid postgres --regid postgres --init-groups -- "$@"; }

if [ ! -e "$data/PG_VERSION" ]; then
  install -d -o postgres -m 700 "$data"
  install -d -o postgres -m 755 "$sockets"
  as "$bin/initdb" -D "$data" -U postgres -E UTF8 --no-locale --no-sync --auth-local=trust --auth-host=scram-sha-256
  echo 'host all all all scram-sha-256' >>"$data/pg_hba.conf"
  # Without TCP until it is filled: nobody shall find half a database.
  as "$bin/pg_ctl" -D "$data" -w -o "-c listen_addresses= -c dynamic_shared_memory_type=mmap" start
  psql -q -v ON_ERROR_STOP=1 -h "$sockets" -U postgres -c "CREATE ROLE \"$POSTGRES_USER\" LOGIN PASSWORD '$POSTGRES_PASSWORD'" \
    -c "CREATE DATABASE \"$POSTGRES_DB\" OWNER \"$POSTGRES_USER\""
  for file in /docker-entrypoint-initdb.d/*.sql; do
    psql -q -v ON_ERROR_STOP=1 -h "$sockets" -U "$POSTGRES_USER" -d "$POSTGRES_DB" -f "$file"
  done
  as "$bin/pg_ctl" -D "$data" -w -m fast stop
fi
exec setpriv --reuid postgres --regid postgres --init-groups -- "$bin/postgres" -D "$data" -c listen_addresses='*' \
  -c dynamic_shared_memory_type=mmap
