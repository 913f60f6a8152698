#!/usr/bin/env bash
# A whole protocol on a data set: every method, every seed, then the table. Finished runs are skipped.
#   bash scripts/run_protocol.sh base2new|fewshot|cross_dataset|domain_generalization DATASET [METHODS [SEEDS [KEY VALUE ...]]]
# METHODS such as 'zsclip coop mocoop' and SEEDS such as '1 2 3' are one argument each. For the last two protocols, DATASET is
# the source. Settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
protocol run "$@"
