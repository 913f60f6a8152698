#!/usr/bin/env bash
# Test ZeroshotCLIP2 on another data set (SOURCE says which source's row it belongs to; default imagenet, demo_icons).
# bash scripts/zsclip2/xd_test.sh DATASET SEED [KEY VALUE ...]; settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
protocol xd_test ZeroshotCLIP2 "$@"
