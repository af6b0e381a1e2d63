#!/bin/sh
# Remove the edge runtime that install-edge.sh has installed; its modules are stopped.
#
#   sudo deploy/uninstall-edge.sh [--purge]
#
# The configuration and all state stay, so that it can be installed again. With --purge they go, too:
# identity, deployment, messages that wait, and the modules themselves, containers included.
set -eu

PREFIX=${PREFIX:-/opt/muster-edge}
BIN=${BIN:-/usr/local/bin}
UNITS=${UNITS:-/etc/systemd/system}
OWNED=label=net.azure-devices.edge.owner=Microsoft.Azure.Devices.Edge.Agent

fail() {
    echo "uninstall-edge: $1" >&2
    exit 1
}

case "$*" in
    "") purge=no ;;
    --purge) purge=yes ;;
    *) fail "usage: sudo $0 [--purge]" ;;
esac
[ "$(id -u)" -eq 0 ] || fail "must be run as root: try again with sudo"

if [ -e "$UNITS/iotedged.service" ] && command -v systemctl >/dev/null; then
    systemctl disable --quiet iotedged
    if [ -d /run/systemd/system ]; then
        # Whatever the daemon could not stop is in the slice.
        systemctl stop iotedged
        systemctl stop iotedge.slice
    fi
fi
rm -rf "$UNITS/iotedged.service" "$UNITS/iotedged.service.d" "$PREFIX"
rm -f "$BIN/iotedge" "$BIN/iotedged"
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
fi

if [ "$purge" = yes ]; then
    if command -v docker >/dev/null; then
        docker ps --all --quiet --filter "$OWNED" | xargs -r docker rm --force >/dev/null
    fi
    rm -rf /etc/aziot/config.* /var/lib/aziot/edged
    rmdir /etc/aziot /var/lib/aziot 2>/dev/null || true
    if getent group iotedge >/dev/null; then groupdel iotedge; fi
    echo "Removed, with all that it had."
else
    echo "Removed. /etc/aziot and /var/lib/aziot/edged stay; --purge removes them, too."
fi
