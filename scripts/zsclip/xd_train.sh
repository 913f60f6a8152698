#!/usr/bin/env bash
# Test METHOD on the source data set of cross-dataset and domain generalization.
# bash scripts/METHOD/xd_train.sh DATASET SEED [KEY VALUE ...]; settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
this_step "$@"
