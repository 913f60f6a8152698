#!/usr/bin/env bash
# Train and test CoOp on all classes with 1, 2, 4, 8 and 16 images per class (SHOTS="4" for one of them).
# bash scripts/coop/fewshot.sh DATASET SEED [KEY VALUE ...]; settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
protocol fewshot CoOp "$@"
