#!/usr/bin/env bash
# The demo: base-to-new on the ten data sets of the miniature world, three methods, three seeds; ends with one line per data set
# and the average. Finished runs are skipped, so a second call prints the table at once. SEEDS="1" or METHODS="zsclip mocoop" make
# it shorter; DATASET=demo_icons runs the older demo world instead (or any one data set); more settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
(($# == 0)) || fail "no arguments are expected, found: $*"
environment
METHODS=${METHODS:-zsclip coop mocoop} SEEDS=${SEEDS:-1 2 3}
[[ -z ${DATASET:-} ]] || protocol run base2new "$DATASET" "$METHODS" "$SEEDS"
exec "$PYTHON" "$CHECKOUT/scripts/demo/demo.py" "$METHODS" "$SEEDS"
