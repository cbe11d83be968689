#!/bin/sh
# What pip can't install: `system.sh java` (17 or 21, for Spark), `system.sh browser` (Chromium, for the tests of HTML
# pages). As root on Debian it installs the package; otherwise it prints what to do. Only Java is required.
set -eu

install() { # the message, then package names: installs the first one available
    what=$1
    shift
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        echo "$what: installing it with apt-get"
        apt-get update -qq || true
        for package in "$@"; do
            DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$package" \
                >/dev/null 2>&1 && return
        done
    fi
    echo "$what. Install it (Debian, Ubuntu: sudo apt-get install ${2:-$1}), then run the command again." >&2
    exit 1
}

case $1 in
java)
    java=${JAVA_HOME:+$JAVA_HOME/bin/}java
    version=$("$java" -version 2>&1 | sed -nE 's/.*version "(1\.)?([0-9]+).*/\2/p' | head -1) || version=
    [ "${version:-0}" -ge 17 ] && [ "$version" -le 21 ] && exit
    what="candlecast needs Java 17 or 21 (for Spark), found ${version:-none}"
    if [ -n "${JAVA_HOME:-}" ]; then
        echo "$what in JAVA_HOME=$JAVA_HOME. Set JAVA_HOME to one of these, then run the command again." >&2
        exit 1
    fi
    install "$what" openjdk-21-jre-headless openjdk-17-jre-headless
    ;;
browser)
    for name in chromium chromium-browser google-chrome; do
        command -v "$name" >/dev/null && exit
    done
    (install "The tests of HTML pages need Chromium" chromium) || true
    ;;
esac
