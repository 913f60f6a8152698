#!/usr/bin/env bash
# Test ZeroshotCLIP2 on the source data set of cross-dataset and domain generalization.
# bash scripts/zsclip2/xd_train.sh DATASET SEED [KEY VALUE ...]; settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
protocol xd_train ZeroshotCLIP2 "$@"
