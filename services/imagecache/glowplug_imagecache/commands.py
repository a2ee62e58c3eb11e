"""The shell scripts that build steps are, as argument vectors. Pure.

They run inside a build container, through the worker that holds it. imagecache knows no path there: the
scripts find the layer, the interpreter and uv through variables that the worker sets
(`glowplug_worker/images/kit.py` lists them). Users' words are only ever arguments, never part of a script.
"""

from __future__ import annotations

from glowplug_contracts.messages.deployment import ImageStep

# Requirement lines go through a file, so that options and hashes in them mean what they do for pip.
# uv puts scripts beside the packages; they belong into bin, which is first on PATH.
PIP_SCRIPT = """\
set -euf
if [ -z "$GLOWPLUG_PYTHON" ]; then
  echo "the image has no Python to install packages for: install one first" >&2
  exit 1
fi
cd "$GLOWPLUG_LAYER"
list=$(mktemp)
trap 'rm -f "$list"' EXIT
printf '%s\\n' "$@" > "$list"
"$GLOWPLUG_UV" pip install --no-config --no-progress --color never --compile-bytecode \\
  --target "$GLOWPLUG_LAYER/site-packages" --python "$GLOWPLUG_PYTHON" \\
  ${GLOWPLUG_UV_FLAGS:-} -r "$list"
if [ -d site-packages/bin ]; then
  mkdir -p bin
  cp -Rf site-packages/bin/. bin/
  rm -rf site-packages/bin
fi
"""

# Compiled modules of the layer are trusted without a look at their source, so a command that changed
# a source must not leave an older compiled one behind.
REFRESH_CODE = """\
import importlib.util, os, py_compile, sys
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        source = os.path.join(folder, name)
        compiled = importlib.util.cache_from_source(source) if name.endswith('.py') else ''
        try:
            with open(compiled, 'rb') as file:
                head = file.read(16)
            with open(source, 'rb') as file:
                now = importlib.util.source_hash(file.read())
        except OSError:
            continue
        if head[4:5] == b'\\1' and head[8:16] != now:
            os.unlink(compiled)
            try:
                py_compile.compile(source, doraise=True, invalidation_mode=mode)
            except py_compile.PyCompileError:
                pass
"""

RUN_SCRIPT = """\
set -u
cd "$GLOWPLUG_LAYER"
PATH="$GLOWPLUG_LAYER/bin:$PATH" PYTHONPATH="$GLOWPLUG_LAYER/site-packages" /bin/sh -c "$1" || exit
[ -x "$GLOWPLUG_PYTHON" ] || exit 0
"$GLOWPLUG_PYTHON" -I -S -c "$2" "$GLOWPLUG_LAYER/site-packages"
"""

# What a container may ask of its root: no other user to fetch as, nothing to answer, no service that starts.
# The lists are fetched anew, since those of the image are as old as it is, and are not kept.
APT_SCRIPT = """\
set -eu
command -v apt-get > /dev/null || {
  echo "the image has no apt-get: take one of Debian or Ubuntu, or install with run_commands" >&2
  exit 1
}
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -q install -y --no-install-recommends -- "$@"
apt-get clean
rm -rf /var/lib/apt/lists/*
"""


def command_for(step: ImageStep) -> tuple[str, ...]:
    """Return what runs in the container for a "pip", "apt" or "run" step."""
    if step.kind == "pip":
        return ("/bin/sh", "-c", PIP_SCRIPT, "pip", *step.args)
    if step.kind == "apt":
        return ("/bin/sh", "-c", APT_SCRIPT, "apt", *step.args)
    assert step.kind == "run", step.kind  # noqa: S101 - the plan has no other container steps
    return ("/bin/sh", "-c", RUN_SCRIPT, "run", step.args[0], REFRESH_CODE)
