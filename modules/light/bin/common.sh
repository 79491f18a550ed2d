#!/bin/sh
# Shared by the scripts of this module. Read with `.`, never run.
#
# SERVICES (userconfig.xml): systemd services in the order of their start.

set -u
name=${TSUGI_MODULE:-module}
services=${SERVICES:-}

# The services in reverse order.
reversed() {
    backwards=
    for service in $services; do
        backwards="$service $backwards"
    done
    echo "$backwards"
}

# Whether the service is gone for good: neither active nor on its way up or down.
is_down() {
    case $(systemctl is-active "$1" 2>/dev/null) in
        active | activating | deactivating | reloading) return 1 ;;
        *) return 0 ;;
    esac
}

# stop_services [force]: stops in reverse order; with force, kills first. Fails if one is left.
stop_services() {
    left=0
    for service in $(reversed); do
        is_down "$service" && continue
        echo "$name: stopping $service"
        if [ "${1:-}" = force ]; then
            systemctl kill --signal=SIGKILL "$service"
        fi
        systemctl stop "$service"
        is_down "$service" || { echo "$name: $service still runs" >&2; left=1; }
    done
    return "$left"
}
