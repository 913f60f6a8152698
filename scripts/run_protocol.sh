#!/usr/bin/env bash
# A whole protocol on a data set: every method, every seed, then the table. Finished runs are skipped.
# bash scripts/run_protocol.sh base2new|fewshot|cross_dataset|domain_generalization DATASET ['zsclip coop ...' ['1 2 3']]
# For the last two, DATASET is the source. Settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
protocol run "$@"
