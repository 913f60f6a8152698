#!/usr/bin/env bash
# Train LASP on all classes of a source data set: the model of cross-dataset and domain generalization.
# bash scripts/lasp/xd_train.sh DATASET SEED [KEY VALUE ...]; settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
protocol xd_train LASP "$@"
