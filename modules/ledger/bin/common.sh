#!/bin/sh
# Shared by the scripts of this module: finds, starts and ends the ledger of this module. Read with `.`, never run.
#
# Values: LEDGER_DIR, LEDGER_LISTEN and LEDGER_STORE (userconfig.xml), TSUGI_MODULE and TSUGI_RUN (agent).

set -u
: "${LEDGER_DIR:?is set in userconfig.xml}" "${LEDGER_LISTEN:?is set in userconfig.xml}"
name=${TSUGI_MODULE:-ledger}
# Neither file may lie in the replicated directory: they speak of this machine only. Nor on a disk, which may be full.
run=${TSUGI_RUN:-/run}
pid_file=$run/$name.ledger.pid
output=$run/$name.ledger.out

# Prints the pid of this module's ledger; fails if it does not run. Another process may have got the number since, so it
# alone proves nothing: the process must be ours by its command line.
ledger_pid() {
    pid=$(cat "$pid_file" 2>/dev/null) || return 1
    case $pid in '' | *[!0-9]*) return 1 ;; esac
    { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -Fq -- "tsugi-ledger --dir $LEDGER_DIR --listen" || return 1
    echo "$pid"
}

# ledger_end SIGNAL SECONDS: sends the signal and waits until the process is gone. Looked for some fifty times a second:
# clients wait meanwhile.
ledger_end() {
    pid=$(ledger_pid) || { rm -f "$pid_file"; return 0; }
    echo "$name: SIG$1 to process $pid"
    kill -s "$1" "$pid" 2>/dev/null
    looks=0
    while ledger_pid >/dev/null; do
        [ "$looks" -lt $(($2 * 50)) ] || return 1
        looks=$((looks + 1))
        sleep 0.02
    done
    rm -f "$pid_file"
}
