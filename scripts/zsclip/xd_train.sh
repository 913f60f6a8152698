#!/usr/bin/env bash
# Test ZeroshotCLIP on the source data set of cross-dataset and domain generalization.
# bash scripts/zsclip/xd_train.sh DATASET SEED [KEY VALUE ...]; settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
protocol xd_train ZeroshotCLIP "$@"
