# `just` alone lists these recipes; `cargo install just` or `pip install rust-just` installs it.

set shell := ["bash", "-euo", "pipefail", "-c"]

# The recipes with their help
[private]
default:
    @{{ just_executable() }} --list --unsorted

# The quick check: formatting, lints, tests, documentation; .ci/run is the full one and must pass too
ci: fmt-check lint test doc

# Formats every crate
fmt:
    cargo fmt --all

# Fails if a file is not formatted
fmt-check:
    cargo fmt --all --check

# Clippy on everything, and on the monitor that is built without candle
lint:
    cargo clippy --workspace --all-targets -- -D warnings
    cargo clippy -p pptop --no-default-features --all-targets -- -D warnings

# All tests, or those that ARGS selects; with nextest if it is installed
test *args:
    #!/usr/bin/env bash
    set -euo pipefail
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --workspace {{ args }}
        # nextest does not run the examples in the documentation
        [[ -n "{{ args }}" ]] || cargo test --workspace --doc
    else
        cargo test --workspace {{ args }}
    fi

# Redraws the expected drawings and screens, then shows what changed
bless:
    UPDATE_EXPECT=1 INSTA_UPDATE=always INSTA_FORCE_PASS=1 cargo test --workspace
    git --no-pager diff --stat

# Builds the documentation; a broken link is an error
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Draws a plan: just grid 1f1b 4 8
grid name p m *args:
    @cargo run --release --quiet --bin pptop -- schedule show {{ name }} --pp {{ p }} --micro-batches {{ m }} {{ args }}

# Puts the program's own screen into the README (needs tmux)
picture *args:
    ci/picture.sh {{ args }}

# Kills runs at random moments and resumes them under random layouts, for ten minutes
soak *args:
    cargo build --release --bin pptop
    python3 tests/soak/run.py target/release/pptop {{ args }}

# Ranks as processes: bits, faults, two hosts (needs Open MPI; hosts need root)
mpi *args:
    ci/mpi/test.sh {{ args }}

# Redraws the screens of docs/screens, from a new run of 30 steps or from the run that ARGS names
screens *args:
    ci/screens.sh {{ args }}

# The strategies on seed-mlp and gpt, the account of a step, and how plans scale, into benches/results; then the micro-benchmarks
bench *args:
    cargo run --release -p pp-benches --bin strategies -- {{ args }}
    cargo run --release -p pp-benches --bin account
    cargo run --release -p pp-benches --bin scale
    cargo bench --workspace --bench ops --bench links --bench schedule

# Messages of ranks over MPI beside MPI alone (needs Open MPI)
bench-mpi:
    cargo build --release -p pp-mpi --features mpi --example ping_pong
    MIMALLOC_PURGE_DELAY=60000 mpirun -np 2 target/release/examples/ping_pong

# pptop, PyTorch's pipelines and plain candle on the same jobs, alternately (5 GB from PyPI)
bench-peers *args:
    benches/peers/run.sh {{ args }}

# GFLOP/s of each matrix kernel for each product, and the choice that follows; ARGS: the number of runs
bench-kernels *args:
    cargo run --release -p pp-benches --bin kernels -- {{ args }}

# Whether the cores change speed, and whether because of the clock or of a neighbour on the core; ARGS: seconds
bench-speeds *args:
    cargo run --release -p pp-benches --bin speeds -- {{ args }}

# Puts benches/results/peers-*.json and account-*.json into docs/measurements.md
tables:
    cargo run --release -p pp-benches --bin tables

# The timed promises: measured bubbles, speed-up, losses, the cost of watching (needs a quiet machine)
measure *args:
    cargo run --release -p pp-benches --bin measure -- {{ args }}
    cargo run --release -p pp-benches --bin viewer -- {{ args }}
    python3 integrations/python/tests/measure_cost.py

# The package pptop-log: its wheel, tests, types, lints and example (pytest, mypy and ruff from PyPI)
python:
    ci/python/test.sh

# NumPy recomputes a dumped step; PyTorch's runtime runs pptop's plans, and pptop PyTorch's; PyTorch's jobs are watched (5 GB from PyPI)
interop:
    tests/interop/run.sh

# Thirty steps of SmolLM2 on two ranks: losses before and after, memory, and PyTorch's loss of what was saved (a quarter of an hour, 5 GB from PyPI)
finetune:
    tests/smollm/finetune.sh

# Lints the cuda feature with the stand-in nvcc: no GPU, no toolkit, no download
cuda-check:
    ci/cuda/check.sh

# Trains on a stand-in for the driver, counts its calls, and rehearses gpu-pack's validate.sh
cuda-stand-in:
    ci/cuda/stand_in.sh

# All tests with --features cuda on this machine's GPU, and a report (needs a GPU and its toolkit)
gpu *args:
    ci/gpu/run.sh {{ args }}

# Packs pptop with real CUDA kernels for a machine with a GPU (100 MB from PyPI; needs no GPU)
gpu-pack:
    ci/gpu/pack.sh
