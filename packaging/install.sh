#!/bin/sh
# Installs pinhook as a systemd service on this machine. Run as root:
#
#   sudo packaging/install.sh [BINARY]        default: target/release/pinhook of this checkout
#
# Puts the binary, the unit and the account in place, and a first configuration with a token of its
# own. Run it again to upgrade: the binary and the unit are replaced, configuration and secrets are
# never touched. With DESTDIR=DIR everything goes below DIR and the machine itself is left alone: no
# account, no owner, no systemctl.
set -eu
umask 022

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
shipped_config=$here/../config.yaml
demonstration_token=pinhook-demonstration-token
root=${DESTDIR:-}

case $# in
    0) binary=$here/../target/release/pinhook; given=no ;;
    1) binary=$1; given=yes ;;
    *) fail "takes at most one argument, the binary to install; found $#" ;;
esac
case ${1:-} in -*) fail "unknown option $1; the only argument is the binary to install" ;; esac
[ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "must run as root (or with DESTDIR=DIR)"
if [ ! -f "$binary" ]; then
    [ "$given" = no ] || fail "no such file: $binary"
    fail "no binary at target/release/pinhook; build it with: cargo build --release --locked"
fi
[ -f "$shipped_config" ] || fail "config.yaml is missing beside packaging/"
# Asked before anything is written: a binary of another architecture would leave half an installation.
binary=$(CDPATH='' cd -- "$(dirname -- "$binary")" && pwd)/$(basename -- "$binary")
version=$("$binary" --version) || fail "$binary does not run on this machine"

install -D -m 0755 "$binary" "$root/usr/bin/pinhook"
install -D -m 0644 "$here/systemd/pinhook.service" "$root/usr/lib/systemd/system/pinhook.service"
install -D -m 0644 "$here/sysusers.d/pinhook.conf" "$root/usr/lib/sysusers.d/pinhook.conf"

if [ -z "$root" ]; then
    if command -v systemd-sysusers >/dev/null 2>&1; then
        systemd-sysusers pinhook.conf || fail "systemd-sysusers could not make the account pinhook"
    elif ! id pinhook >/dev/null 2>&1; then
        useradd --system --user-group --home-dir /var/lib/pinhook --no-create-home \
            --shell /usr/sbin/nologin pinhook || fail "useradd could not make the account pinhook"
    fi
fi

config=$root/etc/pinhook/config.yaml
secrets=$root/etc/pinhook/secrets.env
install -d -m 0755 "$root/etc/pinhook"

# Moves FILE.new to FILE, readable by root and the daemon only. Written aside and moved last, so that
# an interrupted run leaves no half a file that the next run would keep.
put() {
    chmod 0640 "$1.new"
    [ -n "$root" ] || chown root:pinhook "$1.new"
    mv "$1.new" "$1"
}

if [ -e "$secrets" ]; then
    echo "kept    $secrets"
else
    token=$("$binary" token) || fail "pinhook token gave no token"
    [ -n "$token" ] || fail "pinhook token printed nothing"
    (umask 077 && printf 'PORCH_TOKEN=%s\n' "$token" >"$secrets.new")
    put "$secrets"
    echo "wrote   $secrets (a fresh token for the device porch)"
fi

if [ -e "$config" ]; then
    echo "kept    $config"
else
    # The device's token moves to the secrets file; everything else stays as it is shipped.
    (
        umask 077
        sed -e "s/^\( *token: *\)[\"']\{0,1\}${demonstration_token}[\"']\{0,1\} *\(#.*\)\{0,1\}\$/\1\${PORCH_TOKEN}/" \
            -e 's/^# *\(secrets: *secrets\.env\)/\1/' "$shipped_config" >"$config.new"
        grep -q '^secrets:' "$config.new" || printf '\nsecrets: secrets.env\n' >>"$config.new"
    )
    # shellcheck disable=SC2016  # the configuration holds ${PORCH_TOKEN} literally
    grep -q '^ *token: *\${PORCH_TOKEN}' "$config.new" ||
        fail "config.yaml has no line 'token: $demonstration_token' to put the fresh token in"
    put "$config"
    echo "wrote   $config"
fi

"$binary" check "$config" ||
    fail "installed, but the daemon would not start with $config; correct what is said above, then run install.sh again"

echo "installed $version"
[ -z "$root" ] || exit 0

if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || fail "systemctl daemon-reload failed"
    if systemctl is-active --quiet pinhook; then
        echo "next: systemctl restart pinhook (the earlier version is still running)"
        exit 0
    fi
fi
cat <<NEXT
next:
  systemctl enable --now pinhook     starts it, now and at every boot
  journalctl -u pinhook -f           shows what it does
  cat $secrets       shows the token of the device porch (as root)
It listens on this machine only. For devices on the network set listen.mqtt to 1883
in $config, or listen.mqtts to 8883 with a certificate (README, TLS and WebSocket).
NEXT
