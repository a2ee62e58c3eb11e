# The only way anything is run, locally and in CI. `just` itself is in the venv: .venv/bin/just

# The tools next to this very `just`, whatever the venv is called.
export PATH := parent_directory(just_executable()) + ":" + env("PATH")
python := parent_directory(just_executable()) / "python"

packages := "glowplug_contracts glowplug_runtime glowplug_gateway glowplug_scheduler glowplug_autoscaler glowplug_imagecache glowplug_worker glowplug_sandbox glowplug_local glowplug"
quick_layers := "tests/unit tests/property tests/decisions tests/contracts tests/repo"

# List the recipes.
[private]
default:
    @just --list --unsorted

# Install everything, editable, into the venv that this `just` is in.
[group('work')]
setup:
    uv pip install --python {{ python }} -c constraints.txt -r dev.txt

# Format the code and sort its imports.
[group('work')]
fmt:
    ruff check --select I --fix-only --quiet .
    ruff format .

# Find faults without running anything: style, and the doors between the rooms.
[group('check')]
lint:
    ruff format --check --quiet .
    ruff check --quiet .
    lint-imports --no-logo

# Check the types of all product code, strictly.
[group('check')]
types:
    mypy {{ prepend('-p ', packages) }}

# Lint, types and every test that starts no service (< 60 s).
[group('check')]
quick *args: lint types
    pytest {{ quick_layers }} -m "not slow" {{ args }}

# Everything: what the README and .ci/run call (< 20 min on two cores).
[group('check')]
test *args: lint types
    pytest -n 2 {{ args }}

# The seeded simulation, with as many fresh seeds as asked for.
[group('check')]
sim seeds="200":
    GLOWPLUG_SIM_SEEDS={{ seeds }} pytest tests/simulation

# The golden decision scripts; `just golden --update` rewrites what they expect.
[group('check')]
golden update="":
    GLOWPLUG_GOLDEN_UPDATE={{ if update == "--update" { "1" } else { "0" } }} pytest tests/decisions

# One benchmark by number (`just bench t01`), or all of them.
[group('measure')]
bench which="t":
    for file in benchmarks/{{ which }}[0-9]*.py; do name=$(basename "$file" .py); echo "== $name"; {{ python }} -m "benchmarks.$name" || exit 1; done

# The campaign of faults against real processes: `just faults --slices 10 --minutes 60` adds up in faults-results.jsonl.
[group('check')]
faults *args:
    {{ python }} -m faults {{ args }}

# Ten real images from a registry into a container, with every way to mount: `just images --images odd --methods extract`.
[group('check')]
images *args:
    {{ python }} -m images {{ args }}

# Every attempt to break out or to harm, on every backend that is installed, and the table of what held.
[group('check')]
security *args:
    GLOWPLUG_SECURITY=all pytest tests/security -q -r fE {{ args }}

# Changed bytes for everything that reads what strangers send: `just fuzz 100000` makes so many for each reader.
[group('check')]
fuzz times="10000" seed=`date +%s`:
    GLOWPLUG_FUZZ={{ times }} GLOWPLUG_FUZZ_SEED={{ seed }} pytest tests/security/test_fuzz.py -q -p no:cacheprovider

# Bits that flip in the store, on the way and on a worker's disk under mounted images: `just flips 10000`. As root.
[group('check')]
flips times="10000" seed=`date +%s`:
    GLOWPLUG_FLIPS={{ times }} GLOWPLUG_FLIPS_SEED={{ seed }} pytest tests/integration/worker/test_flips.py -q -p no:cacheprovider

# Start and stop containers, kill their worker in the middle, look for leftovers: `just churn --starts 500 --kills 50`.
[group('check')]
churn *args:
    {{ python }} -m faults.churn {{ args }}

# Limits on a kernel of their own with v2 control groups (user-mode Linux), whatever this host has mounted.
[group('check')]
unified *args:
    {{ python }} -m faults.unified {{ args }}

# The largest files and functions, to look at; nobody is blocked by a number.
[group('measure')]
sizes:
    {{ python }} -m tests.repo.sizes

# Regenerate what is made from the code under docs/ and deploy/; record new wire fixtures.
[group('make')]
docs:
    {{ python }} -m tests.repo.generated
    {{ python }} -m tests.contracts.golden

# Build a service's container image with buildah: `just image gateway BASE=debian:12`.
[group('make')]
image service base="docker.io/library/python:3.11-slim":
    buildah bud --build-arg BASE={{ base }} -t glowplug-{{ service }} -f services/{{ service }}/Containerfile .
