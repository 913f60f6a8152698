#!/usr/bin/env bash
# Test zero-shot CLIP on the base classes (base-to-new, first half; nothing is trained).
# bash scripts/zsclip/base2new_train.sh DATASET SEED [KEY VALUE ...]; settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
base2new_train ZeroshotCLIP "$@"
