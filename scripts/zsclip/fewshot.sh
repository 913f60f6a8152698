#!/usr/bin/env bash
# Test ZeroshotCLIP on all classes (it has nothing to train, so one run serves all numbers of shots).
# bash scripts/zsclip/fewshot.sh DATASET SEED [KEY VALUE ...]; settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
protocol fewshot ZeroshotCLIP "$@"
