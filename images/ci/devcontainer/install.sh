#!/bin/sh
# Installs rkube in a development container. The options of the feature are variables.
set -eu

if [ -z "${BASEURL:-}" ]; then
    echo "rkube: the option baseUrl must name the address of a release's files" >&2
    exit 1
fi
script=$(mktemp)
trap 'rm -f "$script"' EXIT
curl -fsSL --proto '=https' -o "$script" "$BASEURL/install.sh"
export RKUBE_BASE_URL="$BASEURL"
if [ -n "${VERSION:-}" ]; then
    export RKUBE_VERSION="$VERSION"
fi
sh "$script"
