#!/usr/bin/env bash
# One round of the tests as on a fresh machine: a clone of the last commit (without what is not committed) in a temporary
# folder, an environment of its own with the versions asked for, the whole suite. Not part of CI: PyTorch makes it a large
# download and 5 GB of disk, in TMPDIR, until the round is over. Whatever pip is set up to do holds here too.
# bash scripts/test_with.sh PYTHON [REQUIREMENT ...], e.g. python3.10 torch==2.4.1 torchvision==0.19.1
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
(($# > 0)) || fail "usage: bash scripts/test_with.sh PYTHON [REQUIREMENT ...], e.g. python3.10 torch==2.4.1 torchvision==0.19.1"
interpreter=$(command -v "$1") || fail "no interpreter $1"
shift
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
git clone --quiet "$CHECKOUT" "$folder/mocoop"
"$interpreter" -m venv "$folder/venv"
PYTHON=$folder/venv/bin/python
"$PYTHON" -m pip install -e "$folder/mocoop[test]" "$@" || fail "the installation failed; see pip's message above"
"$PYTHON" -m pip list
"$PYTHON" -V
PYTHON=$PYTHON bash "$folder/mocoop/scripts/test.sh"
