# Sourced by the other scripts: creates .venv with Python 3.11 to 3.13 if it is missing, updates it, and activates it.
# Usage: [extra=EXTRA] . scripts/environment.sh   (EXTRA: one of pyproject.toml's, such as test)
repository=$(CDPATH='' cd -- "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${GENRE_CLS_VENV:-$repository/.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
        "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo "$candidate" && return
    done
    echo "error: no Python 3.11, 3.12 or 3.13 found; install one, or name it: PYTHON=/path/to/python3.11 $0" >&2
    return 1
}

# A checksum of the requirements and of the checkout's path is stored, so that a second start installs nothing.
wanted=$({ cat "$repository/pyproject.toml" "$repository/constraints.txt"; echo "$repository"; } | cksum)
extra=${extra:-}
stamp=$venv/installed-${extra:-base}
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || ! "$venv/bin/python" -c "" 2>/dev/null; then  # its Python may have been removed
    quiet=--quiet
    again=$([ -f "$venv/pyvenv.cfg" ] && echo --clear) || true  # only a virtual environment is cleared
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || { python=$(find_python) && "$python" -m venv $again "$venv"; } || exit 2
    if [ -f "$venv/bin/genre-cls" ]; then
        echo "bringing $venv up to date${extra:+ with the extra $extra} (mostly seconds)" >&2
    else
        echo "installing into $venv (about 5 GB with PyTorch, a few minutes)" >&2
        [ ! -t 2 ] || quiet=  # on a terminal pip shows what it downloads
    fi
    (cd "$repository" && "$venv/bin/python" -m pip install $quiet --disable-pip-version-check \
        --constraint constraints.txt --editable ".${extra:+[$extra]}" >&2) || exit 1
    echo "$wanted" >"$stamp"
    for old in "$venv"/installed-*; do [ "$(cat "$old")" = "$wanted" ] || rm "$old"; done  # such as another checkout's
fi
export MLFLOW_DISABLE_TELEMETRY=${MLFLOW_DISABLE_TELEMETRY:-true}  # of programs of MLflow's own, as genre_cls has it
export PATH="$venv/bin:$PATH"
