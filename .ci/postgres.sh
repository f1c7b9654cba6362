# Sourced: names a PostgreSQL server for the tests in OPTEVOLVE_TEST_POSTGRES. Installs one where it can (root, apt-get) and starts a fresh
# cluster of its own in a temporary folder. Never fails: without a server the tests of PostgreSQL skip, and this says why.

_postgres_binaries() { ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1; }

_postgres_start() {
    local log folder binaries as=""
    log=$(mktemp)
    if [ -z "$(_postgres_binaries)" ]; then
        [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "PostgreSQL is not tested: none is installed, and only root with apt-get could."; return; }
        echo "Installing PostgreSQL for its tests"
        { timeout 120 apt-get update -qq && DEBIAN_FRONTEND=noninteractive timeout 240 apt-get install -y -qq postgresql; } >"$log" 2>&1 ||
            { echo "PostgreSQL is not tested: apt-get could not install it ($(tail -n 1 "$log"))."; return; }
    fi
    binaries=$(_postgres_binaries)
    folder=$(mktemp -d)
    if [ "$(id -u)" = 0 ]; then # the server refuses to run as root
        chown postgres "$folder" && as="runuser -u postgres --"
    fi
    { (cd "$folder" && timeout 60 $as "$binaries/initdb" -D "$folder/data" -U optevolve -A trust -E UTF8 --no-sync &&
        timeout 60 $as "$binaries/pg_ctl" -D "$folder/data" -l "$folder/log" -w -o "-c listen_addresses='' -k $folder -c fsync=off" start); } >"$log" 2>&1 ||
        { echo "PostgreSQL is not tested: the server did not start ($(tail -n 1 "$log"))."; return; }
    trap "$as '$binaries/pg_ctl' -D '$folder/data' -m immediate stop >/dev/null; rm -rf '$folder'" EXIT
    export OPTEVOLVE_TEST_POSTGRES="postgresql+psycopg://optevolve@/postgres?host=$folder"
}

[ -n "${OPTEVOLVE_TEST_POSTGRES:-}" ] || _postgres_start
