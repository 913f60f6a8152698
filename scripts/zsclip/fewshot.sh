#!/usr/bin/env bash
# Test METHOD on all classes (it has nothing to train, so one run serves all numbers of shots).
# bash scripts/METHOD/fewshot.sh DATASET SEED [KEY VALUE ...]; settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
this_step "$@"
