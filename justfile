# Tasks for developers; `just --list` shows them. Needs https://just.systems.

# Lists the tasks.
default:
    @just --list

# Checks formatting and lints.
lint:
    cargo fmt --check
    cargo clippy --workspace --all-targets -- -D warnings

# Checks that the command line compiles for macOS and Windows.
portable:
    tests/portable/run

# Checks the licences, sources and duplicate versions of dependencies.
deny:
    cargo deny check bans licenses sources

# Checks dependencies for known vulnerabilities; downloads the list of them.
advisories:
    cargo deny check advisories

# Runs every test: as root, with the packages that .ci/run names.
test *ARGS:
    tests/run {{ARGS}}

# Runs the unit and contract tests of some crates: just unit -p rkube-node
unit *ARGS:
    cargo nextest run {{ARGS}}

# Brings up a four-node cluster of the tree's own build.
cluster:
    cargo build --release -p rkube
    target/*/release/rkube start --nodes 4

# Measures a cluster's life and the API server.
bench:
    cargo build --release -p rkube -p rkube-bench
    target/*/release/rkube-bench --rkube "$(ls target/*/release/rkube)"

# Builds the image of a node that configures itself, with the running engine: just node-image
node-image NAME="rkube/node":
    cargo build --release -p rkube
    images/node/build target/*/release/rkube {{NAME}}

# Makes the packages of this machine's architecture in target/packages.
dist:
    images/packages/dist

# Installs the packages into a fresh Debian root and tries them there; as root.
dist-check:
    images/packages/check
