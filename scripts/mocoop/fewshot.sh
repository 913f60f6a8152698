#!/usr/bin/env bash
# Train and test METHOD on all classes with 1, 2, 4, 8 and 16 images per class (SHOTS="4" for one of them).
# bash scripts/METHOD/fewshot.sh DATASET SEED [KEY VALUE ...]; settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
this_step "$@"
