#!/bin/sh
# Downloads a release of rkube for Linux, checks it, and installs it below a prefix.
# `sh install.sh --help` describes the use.
set -eu
LC_ALL=C
export LC_ALL

# Filled in by images/packages/dist.
default_base=
default_version=

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

usage() {
    cat <<'END'
Downloads a release of rkube for Linux, checks it, and installs it below a prefix.

  curl -fsSL URL/install.sh | sh
  sh install.sh                  installs, or updates what it installed before
  sh install.sh --uninstall      removes what it installed

RKUBE_PREFIX     where to install, /usr/local by default
RKUBE_VERSION    which version, the one of this script by default
RKUBE_BASE_URL   the address of the release's files. Whoever serves them also serves
                 the checksums, so it must be https, or an address of this machine.
END
}

# Everything is in functions, so that a download that was cut short runs nothing.
main() {
    prefix=${RKUBE_PREFIX:-/usr/local}
    case $prefix in
    /*) ;;
    *) fail "RKUBE_PREFIX must be an absolute path, not '$prefix'" ;;
    esac
    # The list of what was installed: `d` and `f` lines, relative to the prefix.
    doc=share/doc/rkube
    list=$doc/installed
    work=
    trap finish EXIT
    trap 'exit 130' HUP INT TERM
    [ $# -le 1 ] || fail "too many arguments: $*"
    case ${1:-} in
    "") install_release ;;
    --uninstall) uninstall ;;
    -h | --help) usage ;;
    *) fail "unknown argument '$1': there is only --uninstall" ;;
    esac
}

# Removes what is temporary, and what an installation that failed has made.
finish() {
    code=$?
    trap - EXIT HUP INT TERM
    if [ -n "$work" ]; then
        if [ "$code" -ne 0 ] && [ -f "$work/new" ]; then
            while read -r file; do
                rm -f "$prefix/$file.rkube-new"
            done <"$work/new"
            remove_directories "$work/made"
        fi
        rm -rf "$work"
    fi
    exit "$code"
}

# Removes the listed directories that are empty, the deepest first.
remove_directories() {
    sort -r "$1" | while read -r dir; do
        case $dir in
        .) rmdir "$prefix" 2>/dev/null || true ;;
        *) rmdir "$prefix/$dir" 2>/dev/null || true ;;
        esac
    done
}

uninstall() {
    [ -f "$prefix/$list" ] || fail "this script did not install rkube in $prefix: $prefix/$list is missing"
    work=$(mktemp -d)
    sed -n 's/^d //p' "$prefix/$list" >"$work/directories"
    sed -n 's/^f //p' "$prefix/$list" >"$work/files"
    while read -r file; do
        rm -f "$prefix/$file" || fail "cannot remove $prefix/$file"
    done <"$work/files"
    rm -f "$prefix/$list"
    remove_directories "$work/directories"
    echo "rkube is removed from $prefix. Clusters and ~/.rkube are kept: 'rkube delete --all' removes clusters."
}

install_release() {
    base=${RKUBE_BASE_URL:-$default_base}
    version=${RKUBE_VERSION:-$default_version}
    base=${base%/}
    check_host
    work=$(mktemp -d)
    name=rkube-$version-linux-$arch
    download "$name.tar.gz"
    download SHA256SUMS
    check_sum "$name.tar.gz"
    tar -xzf "$work/$name.tar.gz" -C "$work" || fail "cannot unpack $name.tar.gz: nothing was installed"
    place_files "$work/$name"
    "$prefix/bin/rkube" version
    case ":$PATH:" in
    *":$prefix/bin:"*) ;;
    *) echo "add $prefix/bin to PATH" ;;
    esac
}

# Fails unless a release can be downloaded for this machine. Sets `arch`.
check_host() {
    [ "$(uname -s)" = Linux ] || fail "this installs the Linux build; see the README for macOS and Windows"
    case $(uname -m) in
    x86_64 | amd64) arch=amd64 ;;
    aarch64 | arm64) arch=arm64 ;;
    *) fail "no release for $(uname -m)" ;;
    esac
    case $version in
    "") fail "set RKUBE_VERSION to the version to install" ;;
    v*) fail "RKUBE_VERSION is written without the v: ${version#v}" ;;
    *[!0-9A-Za-z.+-]*) fail "'$version' is no version" ;;
    esac
    case $base in
    "") fail "set RKUBE_BASE_URL to the address of the release's files" ;;
    https://*) ;;
    http://127.0.0.1[:/]* | http://localhost[:/]* | http://\[::1\][:/]*) ;;
    http://*) fail "$base must be https: anyone on the way could change the files" ;;
    *) fail "RKUBE_BASE_URL must start with https://, not '$base'" ;;
    esac
    for program in sha256sum tar gzip mktemp; do
        command -v "$program" >/dev/null || fail "needs $program"
    done
    command -v curl >/dev/null || command -v wget >/dev/null || fail "needs curl or wget"
    existing=$prefix
    while [ ! -e "$existing" ]; do
        existing=$(dirname "$existing")
    done
    [ -d "$existing" ] || fail "$existing is not a directory"
    [ -w "$existing" ] || fail "$existing is not writable: run as root, or set RKUBE_PREFIX"
}

download() {
    if command -v curl >/dev/null; then
        curl -fsSL --proto-redir =https --retry 3 -o "$work/$1" "$base/$1" ||
            fail "cannot download $base/$1: nothing was installed"
    else
        wget -q -O "$work/$1" "$base/$1" || fail "cannot download $base/$1: nothing was installed"
    fi
}

check_sum() {
    wanted=$(awk -v name="$1" '$2 == name { print $1 }' "$work/SHA256SUMS")
    [ -n "$wanted" ] || fail "$base/SHA256SUMS does not name $1: nothing was installed"
    found=$(sha256sum "$work/$1" | cut -d ' ' -f 1)
    [ "$found" = "$wanted" ] ||
        fail "the checksum of $1 is $found, SHA256SUMS has $wanted: nothing was installed"
}

# Copies the files of the unpacked release below the prefix: all under temporary names
# first, so that a full disk leaves the old version as it was.
place_files() {
    : >"$work/new"
    : >"$work/made"
    [ -d "$prefix" ] || echo . >"$work/made"
    place "$1/bin/rkube" bin/rkube 755
    for page in "$1"/man/*; do
        place "$page" "share/man/man1/${page##*/}" 644
    done
    place "$1/completions/rkube.bash" share/bash-completion/completions/rkube 644
    place "$1/completions/_rkube" share/zsh/site-functions/_rkube 644
    place "$1/completions/rkube.fish" share/fish/vendor_completions.d/rkube.fish 644
    for file in "$1"/doc/*; do
        place "$file" "$doc/${file##*/}" 644
    done
    : >"$work/old"
    if [ -f "$prefix/$list" ]; then
        sed -n 's/^f //p' "$prefix/$list" >"$work/old"
        sed -n 's/^d //p' "$prefix/$list" >>"$work/made"
    fi
    { sed 's/^/d /' "$work/made" && sed 's/^/f /' "$work/new"; } >"$work/installed"
    place "$work/installed" "$list" 644
    # The list first: with it, --uninstall removes whatever the rest has put in place.
    mv -f "$prefix/$list.rkube-new" "$prefix/$list" || fail "cannot write $prefix/$list"
    sed '$d' "$work/new" >"$work/rest"
    while read -r file; do
        mv -f "$prefix/$file.rkube-new" "$prefix/$file" || fail "cannot write $prefix/$file"
    done <"$work/rest"
    # What only the version before had.
    while read -r file; do
        grep -qxF "$file" "$work/new" || rm -f "$prefix/$file"
    done <"$work/old"
}

# place FROM TO MODE: copies a file to a path below the prefix, under a temporary name.
place() {
    make_directory "$(dirname "$2")"
    echo "$2" >>"$work/new"
    cp "$1" "$prefix/$2.rkube-new" || fail "cannot write $prefix/$2: nothing was installed"
    chmod "$3" "$prefix/$2.rkube-new"
}

# Creates a directory below the prefix, and notes which ones did not exist.
make_directory() {
    [ ! -d "$prefix/$1" ] || return 0
    case $1 in
    */*) make_directory "${1%/*}" ;;
    esac
    mkdir -p "$prefix/$1" || fail "cannot create $prefix/$1"
    echo "$1" >>"$work/made"
}

main "$@"
