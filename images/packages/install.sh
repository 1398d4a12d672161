#!/bin/sh
# Downloads rkube, checks it, and installs it below a prefix.
#
#   curl -fsSL URL/install.sh | sh
#   RKUBE_PREFIX=$HOME/.local sh install.sh
#
# RKUBE_BASE_URL   where the files are
# RKUBE_VERSION    which version
# RKUBE_PREFIX     where to install (default /usr/local)
# `sh install.sh --uninstall` removes what was installed.
set -eu

base=${RKUBE_BASE_URL:-@BASE_URL@}
version=${RKUBE_VERSION:-@VERSION@}
prefix=${RKUBE_PREFIX:-/usr/local}

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

man=$prefix/share/man/man1
bash=$prefix/share/bash-completion/completions
zsh=$prefix/share/zsh/site-functions
fish=$prefix/share/fish/vendor_completions.d
doc=$prefix/share/doc/rkube

if [ "${1:-}" = --uninstall ]; then
    rm -f "$prefix/bin/rkube" "$man"/rkube.1.gz "$man"/rkube-*.1.gz "$bash/rkube" "$zsh/_rkube" "$fish/rkube.fish"
    rm -rf "$doc"
    echo "rkube is removed from $prefix. Clusters are not: run 'rkube delete' for each before."
    exit 0
fi

[ "$(uname -s)" = Linux ] || fail "this installs the Linux build; see the README for macOS and Windows"
case "$(uname -m)" in
x86_64 | amd64) arch=amd64 ;;
aarch64 | arm64) arch=arm64 ;;
*) fail "no release for $(uname -m)" ;;
esac
[ -n "$base" ] || fail "set RKUBE_BASE_URL to the address of the release's files"
[ -w "$prefix" ] || [ ! -e "$prefix" ] || fail "$prefix is not writable: run as root, or set RKUBE_PREFIX"

if command -v curl >/dev/null; then
    get() { curl -fsSL --retry 3 -o "$2" "$1"; }
elif command -v wget >/dev/null; then
    get() { wget -q -O "$2" "$1"; }
else
    fail "needs curl or wget"
fi
command -v sha256sum >/dev/null || fail "needs sha256sum"

name=rkube-$version-linux-$arch
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
get "$base/$name.tar.gz" "$work/$name.tar.gz" || fail "cannot download $base/$name.tar.gz"
get "$base/SHA256SUMS" "$work/SHA256SUMS" || fail "cannot download $base/SHA256SUMS"
(cd "$work" && grep " $name.tar.gz\$" SHA256SUMS | sha256sum -c - >/dev/null 2>&1) ||
    fail "the checksum of $name.tar.gz is wrong: nothing was installed"
tar -xzf "$work/$name.tar.gz" -C "$work"

mkdir -p "$prefix/bin" "$man" "$bash" "$zsh" "$fish" "$doc"
# Renamed into place, so that a running rkube is not overwritten.
cp "$work/$name/bin/rkube" "$prefix/bin/.rkube.new"
chmod 755 "$prefix/bin/.rkube.new"
mv "$prefix/bin/.rkube.new" "$prefix/bin/rkube"
cp "$work/$name"/man/* "$man/"
cp "$work/$name/completions/rkube.bash" "$bash/rkube"
cp "$work/$name/completions/_rkube" "$zsh/_rkube"
cp "$work/$name/completions/rkube.fish" "$fish/rkube.fish"
cp "$work/$name"/doc/* "$doc/"
"$prefix/bin/rkube" version
case ":$PATH:" in
*":$prefix/bin:"*) ;;
*) echo "add $prefix/bin to PATH" ;;
esac
