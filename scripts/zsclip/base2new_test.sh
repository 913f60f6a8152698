#!/usr/bin/env bash
# Test zero-shot CLIP on the new classes (base-to-new, second half).
# bash scripts/zsclip/base2new_test.sh DATASET SEED [KEY VALUE ...]; settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
base2new_test ZeroshotCLIP "$@"
