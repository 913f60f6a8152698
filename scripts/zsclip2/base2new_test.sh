#!/usr/bin/env bash
# Test METHOD on the new classes.
# bash scripts/METHOD/base2new_test.sh DATASET SEED [KEY VALUE ...]; settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
this_step "$@"
