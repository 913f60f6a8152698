#!/usr/bin/env bash
# Train METHOD on all classes of a source data set: the model of cross-dataset and domain generalization.
# bash scripts/METHOD/xd_train.sh DATASET SEED [KEY VALUE ...]; settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
this_step "$@"
