#!/usr/bin/env bash
# The demo: base-to-new on the embedded demo world, three methods, three seeds; ends with the table. Finished runs are
# skipped, so a second call prints the table at once. SEEDS="1" or METHODS="zsclip mocoop" make it shorter;
# more settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
(($# == 0)) || fail "no arguments are expected, found: $*"
environment
protocol run base2new demo_icons "${METHODS:-zsclip coop mocoop}" "${SEEDS:-1 2 3}"
