#!/usr/bin/env bash
# Test CoCoOp on the new classes, after base2new_train.sh (base-to-new, second half).
# bash scripts/cocoop/base2new_test.sh DATASET SEED [KEY VALUE ...]; settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
protocol base2new_test CoCoOp "$@"
