# Shared by the scripts of this folder; sourced, not run. Every script works from any directory.
#
# Settings, all optional, from the environment (relative folders: from where you are):
# DATA     folder of the data sets (default: data in the checkout; without a checkout, where you are)
# OUTPUT   folder for the runs (default: output, in the same place)
# SHOTS    training images per class (default: 16; few-shot: all of 1 2 4 8 16)
# CFG      name of the method's config (default: the method's own for the data set)
# TAG      added to the config's name in the run's folder, to keep runs with other options apart
# SOURCE   data set that the tested model was trained on (default: the one that has the target, e.g. imagenet)
# TARGETS  what cross-dataset or domain generalization tests (default: the source's usual targets)
# JOBS     runs at once (default: 1; on the demo world one per core, at most 4)
# PYTHON   the interpreter (default: the active environment's, else .venv in this checkout, else python)

set -euo pipefail
CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# method_here: what the folder of the script that was called is named, which is the method's name for scripts.
method_here() {
    basename "$(cd "$(dirname "$0")" && pwd)"
}

# With --help a script prints its head and, if that mentions them, the settings above; it does nothing else.
for word in "$@"; do
    if [[ $word == --help || $word == -h ]]; then
        head=$(sed -n "1d; /^#/!q; s/^# \{0,1\}//; s/METHOD\([ /]\)/$(method_here)\1/g; p" "$0")
        echo "$head"
        [[ $head != *ettings* ]] || { echo && sed -n '/^# Settings/,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
        exit
    fi
done

# fail MESSAGE: one message, exit code 1.
fail() {
    echo "Error: $*" >&2
    exit 1
}

# The interpreter of the active environment, else of this checkout's .venv, else the first Python on the PATH.
find_python() {
    if [[ -z ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} && -x $CHECKOUT/.venv/bin/python ]]; then
        echo "$CHECKOUT/.venv/bin/python"
    else
        command -v python || command -v python3 || fail "no python found; install Python 3.10 or newer, or set PYTHON"
    fi
}
PYTHON=${PYTHON:-$(find_python)}
[[ $PYTHON != */* || $PYTHON == /* ]] || PYTHON=$PWD/$PYTHON

# ready: whether the interpreter has what a run needs (this checkout itself need not be installed for that).
ready() {
    "$PYTHON" - torch torchvision open_clip yacs tqdm tabulate scipy safetensors <<'PYTHON_CODE'
import importlib.util
import sys

sys.exit(not all(map(importlib.util.find_spec, sys.argv[1:])))
PYTHON_CODE
}

# protocol STEP METHOD DATASET SEED [KEY VALUE ...]: the runs of one step of a protocol.
protocol() {
    ready || environment
    exec "$PYTHON" "$CHECKOUT" protocol "$@"
}

# this_step DATASET SEED [KEY VALUE ...]: the step that the script's name says, of the method that its folder says.
this_step() {
    protocol "$(basename "$0" .sh)" "$(method_here)" "$@"
}

# installed PYTHON [EXTRA]: whether that interpreter has this very checkout installed, with all it requires.
installed() {
    (cd / && "$1" - "$CHECKOUT" "${2:-}" <<'PYTHON_CODE') 2>/dev/null
import importlib.metadata as metadata
import importlib.util
import re
import sys
from pathlib import Path

checkout, extra = sys.argv[1:]
spec = importlib.util.find_spec("mocoop")
if spec is None or Path(spec.origin).resolve().parent != Path(checkout).resolve():
    sys.exit(1)
for requirement in metadata.requires("mocoop"):
    name, _, marker = requirement.partition(";")
    if "extra ==" not in marker or (extra and re.search(f"extra == ['\"]{extra}['\"]", marker)):
        metadata.version(re.match(r"[\w.-]+", name)[0])  # raises if it is not installed
PYTHON_CODE
}

# environment [EXTRA]: sets PYTHON to an interpreter with this checkout installed. An active environment (or $PYTHON) that
# has it is used as it is; else .venv is made in the checkout, once, and brought up to date when setup.py changes.
environment() {
    local extra=${1:-} venv=$CHECKOUT/.venv stamp
    if [[ $PYTHON != "$venv/bin/python" ]] && installed "$PYTHON" "$extra"; then
        echo "Environment: $PYTHON (this checkout is installed in it)"
        return
    fi
    stamp=$venv/.mocoop${extra:+-$extra}-$(cat "$CHECKOUT/setup.py" "$CHECKOUT/pyproject.toml" | cksum | cut -d' ' -f1)
    if [[ ! -x $venv/bin/python ]]; then
        "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
            fail "$PYTHON is $("$PYTHON" -V 2>&1); Python 3.10 or newer is needed (set PYTHON to one)"
        echo "Environment: making $venv"
        "$PYTHON" -m venv "$venv" || fail "cannot make $venv (on Debian and Ubuntu: apt install python3-venv)"
    fi
    PYTHON=$venv/bin/python
    if [[ ! -e $stamp ]]; then
        echo "Environment: installing into $venv (the first time, PyTorch makes this a large download)"
        "$PYTHON" -m pip install -e "$CHECKOUT${extra:+[$extra]}" || fail "the installation failed; see pip's message above"
        touch "$stamp"
    fi
    echo "Environment: $PYTHON"
}
