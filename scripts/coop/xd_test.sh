#!/usr/bin/env bash
# Test the model of xd_train.sh on another data set (SOURCE says on which it was trained; default imagenet, demo_icons).
# bash scripts/METHOD/xd_test.sh DATASET SEED [KEY VALUE ...]; settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
this_step "$@"
