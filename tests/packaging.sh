#!/usr/bin/env bash
# Checks what packaging/ puts on a machine, without touching this one:
#
#   tests/packaging.sh [BINARY]        default: target/debug/pinhook
#
# The unit is read by systemd's own tools (no running systemd needed), install.sh runs into temporary
# directories. A unit under a booted systemd is not tested here.
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
binary=${1:-$top/target/debug/pinhook}
unit=$top/packaging/systemd/pinhook.service
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "packaging.sh: $*" >&2
    exit 1
}
passed() { echo "ok   $*"; }

for tool in systemd-analyze systemd-sysusers; do
    command -v "$tool" >/dev/null || fail "$tool is missing (Debian package systemd)"
done
[ -x "$binary" ] || fail "no binary at $binary"

# --- the unit ---------------------------------------------------------------------------------------

# systemd-analyze verify looks up every unit and program named, so it gets a root of its own in which
# they exist, and the result does not depend on what this machine has installed.
units=$work/root/usr/lib/systemd/system
mkdir -p "$units" "$work/root/usr/bin" "$work/root/bin"
for target in sysinit basic shutdown network-online multi-user; do
    printf '[Unit]\nDescription=Stand-in\n' >"$units/$target.target"
done
for program in usr/bin/pinhook bin/kill; do
    printf '#!/bin/sh\n' >"$work/root/$program"
    chmod 755 "$work/root/$program"
done

# A misspelt key or value is only a line of output to systemd ("ignoring"), not a failure: any output
# counts as one here.
verify() {
    cp "$1" "$units/pinhook.service"
    systemd-analyze verify --man=no --root="$work/root" pinhook.service >"$work/verify" 2>&1 &&
        [ ! -s "$work/verify" ]
}
verify "$unit" || fail "systemd-analyze verify: $(cat "$work/verify")"
passed "systemd-analyze verify"

refuses() {
    sed "$2" "$unit" >"$work/broken.service"
    ! cmp -s "$unit" "$work/broken.service" || fail "the edit '$2' did not change the unit"
    ! verify "$work/broken.service" || fail "systemd-analyze verify accepts a unit with $1"
}
refuses "a misspelt type" 's/^Type=notify$/Type=notfy/'
refuses "a misspelt key" 's/^ProtectHome=/ProtectHouse=/'
refuses "a program that is not there" 's#^ExecStart=/usr/bin/pinhook#ExecStart=/usr/bin/pinhole#'
refuses "no ExecStart" '/^ExecStart=/d'
passed "systemd-analyze verify refuses broken units"

# 20 is an exposure of 2.0; systemd-analyze fails above it.
secure() { systemd-analyze security --no-pager --offline=true --threshold=20 "$1" >"$work/security" 2>&1; }
secure "$unit" || fail "systemd-analyze security: $(tail -n 1 "$work/security")"
passed "systemd-analyze security: $(tail -n 1 "$work/security")"
sed -e '/^Protect/d' -e '/^SystemCall/d' "$unit" >"$work/open.service"
! secure "$work/open.service" || fail "systemd-analyze security accepts a unit without its hardening"
passed "systemd-analyze security refuses a bare unit"

# The unit may name only what the binary has.
grep '^Exec' "$unit" | while IFS= read -r line; do
    case $line in
        "ExecStartPre=/usr/bin/pinhook check /etc/pinhook/config.yaml") ;;
        "ExecStart=/usr/bin/pinhook --config /etc/pinhook/config.yaml") ;;
        "ExecReload=/usr/bin/pinhook check /etc/pinhook/config.yaml") ;;
        "ExecReload=/bin/kill -HUP \$MAINPID") ;;
        *) fail "a command this test does not know: $line" ;;
    esac
done
passed "the unit's commands"

# A passwd and group file of its own: systemd-sysusers reads them below --root.
mkdir -p "$work/root/etc" "$work/root/usr/lib/sysusers.d"
cp "$top/packaging/sysusers.d/pinhook.conf" "$work/root/usr/lib/sysusers.d/"
systemd-sysusers --root="$work/root" pinhook.conf >"$work/sysusers" 2>&1 ||
    fail "systemd-sysusers: $(cat "$work/sysusers")"
for file in passwd group; do
    grep -q '^pinhook:' "$work/root/etc/$file" || fail "systemd-sysusers made no pinhook in /etc/$file"
done
passed "systemd-sysusers makes the account"

# --- install.sh -------------------------------------------------------------------------------------

dest=$work/dest
etc=$dest/etc/pinhook
run_install() { DESTDIR=$dest "$top/packaging/install.sh" "$binary" >"$work/install" 2>&1; }

run_install || fail "install.sh: $(cat "$work/install")"
cmp -s "$binary" "$dest/usr/bin/pinhook" || fail "the installed binary is another one"
cmp -s "$unit" "$dest/usr/lib/systemd/system/pinhook.service" || fail "the installed unit is another one"
[ -f "$dest/usr/lib/sysusers.d/pinhook.conf" ] || fail "sysusers.d/pinhook.conf was not installed"
for file in config.yaml secrets.env; do
    mode=$(stat -c %a "$etc/$file")
    [ "$mode" = 640 ] || fail "$file has mode $mode, expected 640"
done
unexpected=$(find "$dest" -type f -name '*.new')
[ -z "$unexpected" ] || fail "left behind: $unexpected"
passed "install.sh puts everything in place, config and secrets with mode 0640"

token=$(sed -n 's/^PORCH_TOKEN=//p' "$etc/secrets.env")
[[ $token =~ ^[A-Za-z0-9_-]{16,64}$ ]] || fail "secrets.env has no token, or one of a wrong form"
[ "$token" != pinhook-demonstration-token ] || fail "secrets.env has the demonstration token"
if grep -n '^[^#]*pinhook-demonstration-token' "$etc/config.yaml"; then
    fail "the installed config.yaml still has the demonstration token"
fi
! grep -qF "$token" "$etc/config.yaml" || fail "the token stands in config.yaml, not only in secrets.env"
! grep -qF "$token" "$work/install" || fail "install.sh printed the token"
"$dest/usr/bin/pinhook" check "$etc/config.yaml" >"$work/check" 2>&1 ||
    fail "pinhook check of the installed configuration: $(cat "$work/check")"
passed "the installed configuration has a token of its own and passes pinhook check"

# The demonstration token is refused beyond loopback; the installed one must not be.
sed -e '/^listen:/,/^[^ #]/{/^ /d;/^listen:/d}' "$etc/config.yaml" >"$etc/beyond.yaml"
printf '\nlisten:\n  mqtt: 1883\n' >>"$etc/beyond.yaml"
"$binary" check "$etc/beyond.yaml" >"$work/check" 2>&1 ||
    fail "the installed configuration may not listen beyond loopback: $(cat "$work/check")"
# shellcheck disable=SC2016  # the configuration holds ${PORCH_TOKEN} literally
sed 's/\${PORCH_TOKEN}/pinhook-demonstration-token/' "$etc/beyond.yaml" >"$etc/demonstration.yaml"
status=0
"$binary" check "$etc/demonstration.yaml" >"$work/check" 2>&1 || status=$?
[ "$status" = 78 ] || fail "the demonstration token beyond loopback: exit status $status, expected 78"
grep -q 'pinhook token' "$work/check" || fail "the refusal does not name 'pinhook token': $(cat "$work/check")"
rm "$etc/beyond.yaml" "$etc/demonstration.yaml"
passed "only the installed token may be used beyond loopback"

before=$(cat "$etc/secrets.env")
echo '# an edit of the owner' >>"$etc/config.yaml"
cp "$etc/config.yaml" "$work/edited.yaml"
printf 'an old version' >"$dest/usr/bin/pinhook"
run_install || fail "install.sh, second run: $(cat "$work/install")"
cmp -s "$etc/config.yaml" "$work/edited.yaml" || fail "the second run changed an edited config.yaml"
[ "$(cat "$etc/secrets.env")" = "$before" ] || fail "the second run changed secrets.env"
cmp -s "$binary" "$dest/usr/bin/pinhook" || fail "the second run did not replace the binary"
passed "a second run keeps configuration and token, and replaces the binary"

first=$token
dest=$work/dest2
etc=$dest/etc/pinhook
run_install || fail "install.sh into another directory: $(cat "$work/install")"
[ "$(sed -n 's/^PORCH_TOKEN=//p' "$etc/secrets.env")" != "$first" ] || fail "two installations share one token"
passed "every installation has another token"

echo 'webhoks:' >>"$etc/config.yaml"
! run_install || fail "install.sh is content with a configuration that pinhook check refuses"
grep -q webhoks "$work/install" || fail "install.sh does not show what is wrong: $(cat "$work/install")"
passed "install.sh shows a broken configuration and fails"

if DESTDIR=$work/dest3 "$top/packaging/install.sh" "$work/nothing-here" >"$work/install" 2>&1; then
    fail "install.sh is content with a binary that is not there"
fi
grep -q 'no such file' "$work/install" || fail "install.sh does not say what is missing: $(cat "$work/install")"
[ ! -e "$work/dest3" ] || fail "install.sh wrote something before it failed"
passed "install.sh without a binary fails before it writes"
