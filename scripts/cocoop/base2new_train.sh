#!/usr/bin/env bash
# Train METHOD on the base classes and test it on them (base-to-new, first half).
# bash scripts/METHOD/base2new_train.sh DATASET SEED [KEY VALUE ...]; settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
this_step "$@"
