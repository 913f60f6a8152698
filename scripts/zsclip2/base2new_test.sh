#!/usr/bin/env bash
# Test ZeroshotCLIP2 on the new classes.
# bash scripts/zsclip2/base2new_test.sh DATASET SEED [KEY VALUE ...]; settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
protocol base2new_test ZeroshotCLIP2 "$@"
