#!/usr/bin/env bash
# Make the environment if need be, then run the test suite. Arguments go to pytest: bash scripts/test.sh tests/clip -x
# One process per core works at it, at most 4, each with one thread: the whole suite takes about 15 minutes on two cores.
# `-n 0` runs it in one process.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
environment test
cd "$CHECKOUT"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
unset PYTHONDONTWRITEBYTECODE  # tests start hundreds of processes, each of which would compile the package anew
# By file, in our order (tests/conftest.py): what a file's tests share is made once.
set -- -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
echo "Tests: $PYTHON -m pytest $*"
exec "$PYTHON" -m pytest "$@"
