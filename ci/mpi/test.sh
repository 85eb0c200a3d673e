#!/usr/bin/env bash
# Builds pptop with MPI and with faults that a test can ask for, and runs tests/mpi with it.
#
#   ci/mpi/test.sh [PART...]
#
# It needs Open MPI (libopenmpi-dev and openmpi-bin in Debian) and Python. With root and iproute2 it
# also makes two hosts out of network namespaces.
set -euo pipefail
cd "$(dirname "$0")/../.."

cargo build --locked -p pptop --features mpi,fault-injection
cargo build --locked -p pp-mpi-tests --features mpi
target=${CARGO_TARGET_DIR:-target}/debug
# A build without MPI may take the place of this one while the tests run.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cp "$target/pptop" "$target/mpi-same-bits" "$scratch"
python3 tests/mpi/run.py "$scratch/pptop" "$scratch/mpi-same-bits" "$@"
