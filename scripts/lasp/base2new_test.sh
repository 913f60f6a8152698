#!/usr/bin/env bash
# Test LASP on the new classes, after base2new_train.sh (base-to-new, second half).
# bash scripts/lasp/base2new_test.sh DATASET SEED [KEY VALUE ...]; settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
protocol base2new_test LASP "$@"
