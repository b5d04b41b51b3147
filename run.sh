#!/bin/sh
# Set everything up and run the examples or the project's own tests:
#
#     sh run.sh [--yes] examples|tests [arguments for pytest]
#
# The environment is .venv in this directory. What the machine lacks (QEMU, a kernel and busybox for the guest) is
# named and, if you agree or gave --yes, installed or unpacked by `qemuvm setup`.
set -eu
cd "$(dirname "$0")"

usage() {
    sed -n '2,4s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

agreed=
[ "${1:-}" != --yes ] || { agreed=--yes; shift; }
suite=${1:-}
case $suite in
    examples) extra=test ;;
    tests) extra=dev ;;
    *) usage ;;
esac
shift
[ "${1:-}" != --yes ] || { agreed=--yes; shift; }

find_python() {
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "run.sh: Python 3.11 or later is needed" >&2
    exit 1
}

# Debian and Ubuntu keep the pip that a new environment needs in packages of their own. One of them need only be
# unpacked: no root, nothing installed.
pip_from_package() {
    (cd "$1" && apt-get download --quiet python3-pip-whl && dpkg-deb -x python3-pip-whl_*.deb .)
    pip=$(echo "$1"/usr/share/python-wheels/pip-*.whl)
    PYTHONPATH=$pip .venv/bin/python -m pip install --quiet pip
}

make_environment() {
    python=$(find_python)
    echo "making .venv with $("$python" --version)"
    rm -rf .venv
    if "$python" -c 'import ensurepip' 2>/dev/null; then
        "$python" -m venv .venv
        return
    fi
    "$python" -m venv --without-pip .venv
    unpacked=$(mktemp -d)
    pip_from_package "$unpacked" || {
        rm -rf "$unpacked" .venv
        echo "run.sh: this Python cannot make environments; install python3-venv" >&2
        exit 1
    }
    rm -rf "$unpacked"
}

[ -x .venv/bin/pip ] || make_environment
if [ ! -e ".venv/$extra" ] || [ pyproject.toml -nt ".venv/$extra" ]; then
    .venv/bin/python -m pip install --quiet --editable ".[$extra]"
    : >".venv/$extra"
fi
.venv/bin/qemuvm setup $agreed

# A file at a time to each worker, so that what a file shares is made once.
case $suite in
    examples)
        exec .venv/bin/python -m pytest --qemu-real -p no:cacheprovider -v -n auto --dist loadfile examples "$@" ;;
    tests) exec .venv/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder "$@" ;;
esac
