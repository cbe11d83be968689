#!/bin/sh
# Spark needs Java 17 or later. Installs Debian's where that is possible, else says what to do.
set -eu
java=${JAVA_HOME:+$JAVA_HOME/bin/}java
version=$("$java" -version 2>&1 | sed -nE '1s/.*version "(1\.)?([0-9]+).*/\2/p') || version=
if [ "${version:-0}" -ge 17 ]; then
    exit 0
fi
found=${version:+Java $version}
if [ -z "${JAVA_HOME:-}" ] && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "candlecast needs Java 17 or later (for Spark) and found ${found:-none}: installing Debian's"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
        openjdk-21-jre-headless >/dev/null 2>&1 ||
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
            openjdk-17-jre-headless >/dev/null
    exit 0
fi
echo "candlecast needs Java 17 or later (for Spark) and found ${found:-none}. Install it (Debian, Ubuntu:" \
    "sudo apt-get install openjdk-17-jre-headless; macOS: brew install openjdk@17) or set JAVA_HOME," \
    "then type the same again." >&2
exit 1
