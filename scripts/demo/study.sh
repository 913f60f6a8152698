#!/usr/bin/env bash
# The study of docs/demo_study: five methods, four protocols, five seeds, MoCoOp's ablations. Finished runs are skipped.
# bash scripts/demo/study.sh [--page]; settings: see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
environment figures
exec "$PYTHON" "$CHECKOUT/scripts/demo/study.py" "$@"
