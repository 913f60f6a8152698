#!/usr/bin/env bash
# Test METHOD on the base classes (it has nothing to train).
# bash scripts/METHOD/base2new_train.sh DATASET SEED [KEY VALUE ...]; settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
this_step "$@"
