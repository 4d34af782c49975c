# Sourced by quickstart, test and soak, at the top of the checkout: .venv with this package in it, made and kept up to date.

say() {
    printf 'micropod-img: %s\n' "$*" >&2
}

find_python() {
    for python in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            return
        fi
    done
    say 'needs Python 3.11 or newer with its venv module (on Debian: apt-get install python3 python3-venv)'
    exit 2
}

# What the installed package depends on; the tools' size and time stand for their content, which every run checks.
installation() {
    pwd -P
    cat pyproject.toml tools.lock bin/go.mod bin/go.sum bin/*.py
    stat -c '%n %s %Y' micropod_img/_tools/* 2>&1
}

# Usage: is_current STAMP COMMAND…: whether STAMP holds what COMMAND says now.
is_current() {
    stamp=$1
    shift
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$("$@" | sha256sum)" ]
}

make_venv() {
    if ! .venv/bin/python -c '' 2>/dev/null; then
        find_python
        rm -rf .venv
        "$python" -m venv .venv
    fi
    if ! is_current .venv/installed installation; then
        if [ -x micropod_img/_tools/crane ]; then
            say 'installing into .venv …'
        else
            say 'installing into .venv; building crane and umoci from source takes a minute or two, the first time only …'
        fi
        rm -f .venv/installed
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable .
        installation | sha256sum >.venv/installed
    fi
    # Compiled here and not at the first start, whatever PYTHONDONTWRITEBYTECODE says: start-up time counts.
    if [ ! -f .venv/compiled ] || [ -n "$(find micropod_img -name '*.py' -newer .venv/compiled | head -n 1)" ]; then
        : >.venv/compiled
        .venv/bin/python -m compileall -q micropod_img
    fi
}

groups() {
    cat pyproject.toml
}

install_groups() {
    if ! is_current .venv/test-groups groups; then
        say 'installing what the tests need into .venv …'
        rm -f .venv/test-groups
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1' # knows --group
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --group test --group lint
        groups | sha256sum >.venv/test-groups
    fi
}
