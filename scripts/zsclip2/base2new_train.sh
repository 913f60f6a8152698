#!/usr/bin/env bash
# Test ZeroshotCLIP2 on the base classes (it has nothing to train).
# bash scripts/zsclip2/base2new_train.sh DATASET SEED [KEY VALUE ...]; settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
protocol base2new_train ZeroshotCLIP2 "$@"
