#!/usr/bin/env bash
# Test METHOD on another data set (SOURCE says which source's row it belongs to; default imagenet, demo_icons).
# bash scripts/METHOD/xd_test.sh DATASET SEED [KEY VALUE ...]; settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
this_step "$@"
