#!/bin/sh
# The programs that the tests run and that neither PyPI nor npm has: Redis, Chromium,
# PostgreSQL, MariaDB, nginx, HAProxy and a C compiler. As root on Debian or Ubuntu the
# missing ones are installed; elsewhere this only says which are missing, and their
# tests are skipped.
#
# The tests start their own private servers, so no service may be left running or be
# started at the next boot by what is installed here.
#
# SYSTEM=0 does nothing. Exits 0 also when something stays missing: the tests then
# say so, one by one.
set -eu

[ "${SYSTEM:-1}" != 0 ] || exit 0

PATH=$PATH:/usr/sbin:/sbin
policy=/usr/sbin/policy-rc.d
saved=$policy.saved-by-flask-livepush
mark='# made by scripts/system_packages.sh of flask-livepush, for a moment'

say() { printf '%s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

# Ubuntu's chromium-browser is a script that asks for the snap: only running it tells.
have_chromium() {
    for program in "${CHROMIUM:-chromium}" chromium chromium-browser google-chrome \
        "/Applications/Chromium.app/Contents/MacOS/Chromium" \
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
    do
        have "$program" && "$program" --version >/dev/null 2>&1 && return 0
    done
    return 1
}

have_postgresql() {
    have initdb && have postgres && return 0
    for program in /usr/lib/postgresql/*/bin/initdb \
        /opt/homebrew/opt/postgresql@*/bin/initdb /usr/local/opt/postgresql@*/bin/initdb
    do
        [ -x "$program" ] && return 0
    done
    return 1
}

have_mariadb() {
    have mariadbd && have mariadb-install-db && return 0
    for directory in /opt/homebrew/opt/mariadb/bin /usr/local/opt/mariadb/bin; do
        [ -x "$directory/mariadbd" ] && return 0
    done
    return 1
}

missing_programs() {
    have redis-server || printf ' redis-server'
    have_chromium || printf ' chromium'
    have_postgresql || printf ' postgresql'
    have_mariadb || printf ' mariadb-server'
    have nginx || printf ' nginx'
    have haproxy || printf ' haproxy'
    have cc || printf ' gcc libc6-dev'
}

restore_policy() {
    if [ -e "$saved" ]; then
        mv -f "$saved" "$policy"
    elif grep -qsF "$mark" "$policy"; then
        rm -f "$policy"
    fi
}

# A run that was killed may have left its own behind.
[ "$(id -u)" != 0 ] || restore_policy

missing=$(missing_programs)
[ -n "$missing" ] || exit 0

os=
if [ -r /etc/os-release ]; then
    os=$(. /etc/os-release && echo " ${ID:-} ${ID_LIKE:-} ")
fi
case $os in
    *" debian "* | *" ubuntu "*) ;;
    *)
        say "Missing, so their tests will be skipped:$missing"
        have brew && say "Homebrew has them: brew install redis postgresql@17 mariadb nginx haproxy;" \
            "brew install --cask chromium"
        exit 0
        ;;
esac
if [ "$(id -u)" != 0 ]; then
    say "Missing, so their tests will be skipped:$missing"
    say "To install them, run as root: sh scripts/system_packages.sh"
    exit 0
fi

packages=$missing
case $os:$missing in
    *" ubuntu "*chromium*)
        say "Ubuntu has Chromium only as a snap, which is not installed from here: the" \
            "browser tests will be skipped. Set CHROMIUM to a Chromium or Chrome that runs."
        packages=$(printf '%s' "$missing" | sed 's/ chromium//')
        ;;
esac
[ -n "$packages" ] || exit 0

say "The tests need programs that are missing here. Installing with apt-get:$packages"
say "No service will be left running or enabled. (SYSTEM=0 leaves the system alone.)"

# Packages ask policy-rc.d before they start their service; 101 forbids it. One that
# is there already and forbids it may stay; any other is put aside meanwhile.
forbid_services() {
    if [ -x "$policy" ]; then
        status=0
        "$policy" redis-server start >/dev/null 2>&1 || status=$?
        [ "$status" != 101 ] || return 0
    fi
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy.new"
    chmod 755 "$policy.new"
    [ ! -e "$policy" ] || mv "$policy" "$saved"
    mv "$policy.new" "$policy"
}

# A package enables its service for the next boot; those that came now are ours.
disable_services() {
    for package in $packages; do
        case $package in
            chromium) continue ;;
            mariadb-server) service=mariadb ;;
            *) service=$package ;;
        esac
        if have systemctl; then
            systemctl --quiet disable "$service" || true
        elif have update-rc.d; then
            update-rc.d "$service" disable || true
        fi
    done >/dev/null 2>&1
}

install() {
    # shellcheck disable=SC2086  # one word a package
    DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes \
        --no-install-recommends -o DPkg::Lock::Timeout=300 \
        -o Dpkg::Use-Pty=0 $packages >"$log" 2>&1
}

log=$(mktemp)
trap 'restore_policy; rm -f "$log"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
forbid_services
# Old package lists name files that are gone, a fresh machine has no lists.
if ! install; then
    apt-get update --quiet=2 -o DPkg::Lock::Timeout=300 >"$log" 2>&1 || true
    install || { tail -n 20 "$log" >&2; say "apt-get failed."; }
fi
disable_services

missing=$(missing_programs)
[ -z "$missing" ] || say "Still missing, so their tests will be skipped:$missing"
