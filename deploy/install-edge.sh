#!/bin/sh
# Install the edge runtime on Debian or Ubuntu from a directory of wheels, without internet.
#
#   sudo deploy/install-edge.sh WHEELS
#
# On a machine with internet, of the same architecture and version of Python, the directory is made
# by: pip download --dest WHEELS 'muster-iot[edge]'
# or in a checkout: pip wheel --wheel-dir WHEELS '.[edge]'
# Running it again upgrades; the configuration and all state stay. uninstall-edge.sh removes it.
set -eu

PREFIX=${PREFIX:-/opt/muster-edge}
BIN=${BIN:-/usr/local/bin}
UNITS=${UNITS:-/etc/systemd/system}
PYTHON=${PYTHON:-python3}

fail() {
    echo "install-edge: $1" >&2
    exit 1
}

[ $# -eq 1 ] || fail "usage: sudo $0 WHEELS"
wheels=$1
[ -d "$wheels" ] || fail "$wheels is no directory"
ls "$wheels"/muster_iot-*.whl >/dev/null 2>&1 || fail "$wheels has no wheel of muster-iot"
[ "$(id -u)" -eq 0 ] || fail "must be run as root: try again with sudo"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or later is needed (Debian 12, Ubuntu 24.04)"
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || fail "apt install python3-venv is needed first"

getent group iotedge >/dev/null || groupadd --system iotedge
# Also when the machine has another Python since, or was switched off while this ran.
"$PREFIX/bin/python" -m pip --version >/dev/null 2>&1 || "$PYTHON" -m venv --clear "$PREFIX"
"$PREFIX/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade \
    --no-index --find-links "$wheels" 'muster-iot[edge]'

for program in iotedge iotedged; do
    ln -sf "$PREFIX/bin/$program" "$BIN/$program"
done
unit=$(dirname "$0")/systemd/iotedged.service
sed "s|/opt/muster-edge|$PREFIX|" "$unit" >"$UNITS/iotedged.service"
chmod 0644 "$UNITS/iotedged.service"

# Also where an image of a device is made, and nothing runs yet.
if command -v systemctl >/dev/null; then systemctl enable --quiet iotedged; fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    if systemctl is-active --quiet iotedged; then
        # Modules go on while the daemon is replaced.
        systemctl kill --kill-whom=main --signal=INT iotedged
        systemctl restart iotedged
    fi
fi
echo "Installed: $("$PREFIX/bin/iotedge" version)"
echo "Next: sudo iotedge config dps --help, then: sudo iotedge config apply"
