#!/usr/bin/env bash
# Make the environment if need be, then run the test suite. Arguments go to pytest: bash scripts/test.sh tests/clip -x
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
environment test
cd "$CHECKOUT"
echo "Tests: $PYTHON -m pytest $*"
exec "$PYTHON" -m pytest "$@"
