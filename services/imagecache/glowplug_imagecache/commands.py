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

# RUN of a Dockerfile, which says where and as whom. Run by the host's Python: the image may have none.
EXEC_CODE = """\
import os, sys
where, who, *argv = sys.argv[1:]
def table(path):
    try:
        with open(path, errors='replace') as file:
            return [row for line in file if len(row := line.rstrip('\\n').split(':')) > 3]
    except OSError:
        return []
def fail(text):
    print(text, file=sys.stderr)
    sys.exit(125)
def find(rows, name, what):
    row = next((row for row in rows if name in (row[0], row[2])), None)
    if row is None and not name.isdecimal():
        fail(f'USER: the image has no {what} {name!r}')
    return row or [name, '', name, '0', '', '/']
os.makedirs(where, exist_ok=True)
os.chdir(where)
if who:
    name, _, group = who.partition(':')
    user = find(table('/etc/passwd'), name, 'user')
    groups = table('/etc/group')
    gid = int(find(groups, group, 'group')[2]) if group else int(user[3])
    more = [int(row[2]) for row in groups if user[0] in row[3].split(',')]
    try:
        os.setgroups(more)
        os.setresgid(gid, gid, gid)
        os.setresuid(*[int(user[2])] * 3)
    except OSError:
        fail(f'USER {who}: this worker is run by an ordinary user, so that builds have root alone')
    os.environ['HOME'] = user[5] if len(user) > 5 else '/'
for name in [name for name in os.environ if name.startswith('GLOWPLUG_')]:
    del os.environ[name]
try:
    os.execvp(argv[0], argv)
except OSError as error:
    fail(f'{argv[0]}: {error.strerror}')
"""


def command_for(step: ImageStep) -> tuple[str, ...]:
    """Return what runs in the container for a "pip", "apt" or "run" step."""
    if step.kind == "pip":
        return ("/bin/sh", "-c", PIP_SCRIPT, "pip", *step.args)
    if step.kind == "exec":
        assert step.cwd, "it is known by now where it runs"  # noqa: S101
        script = 'exec $GLOWPLUG_HOST_PYTHON -I -S -c "$@"'
        words = (EXEC_CODE, step.cwd, step.user, *step.args)
        return ("/bin/sh", "-c", script, "exec", *words)
    if step.kind == "apt":
        return ("/bin/sh", "-c", APT_SCRIPT, "apt", *step.args)
    assert step.kind == "run", step.kind  # noqa: S101 - the plan has no other container steps
    return ("/bin/sh", "-c", RUN_SCRIPT, "run", step.args[0], REFRESH_CODE)
