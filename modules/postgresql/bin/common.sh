#!/bin/sh
# Shared by the scripts of this module: finds the server of this data directory and ends it. Read with `.`, never run.
#
# Values: PG_* (userconfig.xml), TSUGI_MODULE and TSUGI_STATE_DIR (agent).

set -u
: "${PG_DIR:?is set in userconfig.xml}" "${PG_LISTEN:?}" "${PG_LISTEN_PORT:?}" "${PG_CLIENTS:?}" "${PG_AUTH:?}" "${PG_SOCKETS:?}"
name=${TSUGI_MODULE:-postgresql}
data=$PG_DIR/data
# Speaks of this machine only, so it must not lie in the replicated directory.
state=${TSUGI_STATE_DIR:-/run}

say() { echo "$name: $*"; }
fail() { echo "$name: $*" >&2; exit 1; }

# Runs a command as user postgres. The environment stays: the agent finds the module's processes by it.
as_postgres() {
    if [ "$(id -un)" = postgres ]; then "$@"; else runuser -u postgres -- "$@"; fi
}

# Prints the pid of the server (the postmaster) of this data directory; fails if it does not run. Looks at the processes,
# not at postmaster.pid: the file may come from the other node, and may be out of reach when replication has failed.
server_pid() {
    for dir in /proc/[0-9]*; do
        { read -r comm <"$dir/comm"; } 2>/dev/null || continue
        [ "$comm" = postgres ] || continue
        # Server processes below it have other titles.
        if { tr '\0' '\n' <"$dir/cmdline"; } 2>/dev/null | grep -A 1 -Fx -- -D | grep -Fxq -- "$data"; then
            echo "${dir#/proc/}"
            return 0
        fi
    done
    return 1
}

# Prints the pids of every process that works in this data directory: the server and its children, which outlive a
# server that was killed.
all_pids() {
    {
        for dir in /proc/[0-9]*; do
            { read -r comm <"$dir/comm"; } 2>/dev/null || continue
            [ "$comm" = postgres ] || continue
            case $(readlink "$dir/cwd" 2>/dev/null) in
                "$data" | "$data (deleted)") echo "${dir#/proc/}" ;;
            esac
        done
        server_pid
    } | sort -un
}

# stop_server SIGNAL SECONDS: signals the server and waits until all its processes are gone. SIGINT is what
# `pg_ctl stop -m fast` sends, SIGQUIT what `-m immediate` sends.
stop_server() {
    if pid=$(server_pid); then
        say "SIG$1 to the server, process $pid"
        kill -s "$1" "$pid" 2>/dev/null
    fi
    tenths=0
    while [ -n "$(all_pids)" ]; do
        [ "$tenths" -lt $(($2 * 10)) ] || return 1
        tenths=$((tenths + 1))
        sleep 0.1
    done
}

# Kills what is left. Data confirmed to clients is on disk: recovery at the next start brings it back.
kill_server() {
    for pid in $(all_pids); do
        say "SIGKILL to process $pid"
        kill -s KILL "$pid" 2>/dev/null
    done
    stop_server CONT 10 || fail "processes $(all_pids | tr '\n' ' ')do not end: restart this machine"
}
