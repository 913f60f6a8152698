#!/usr/bin/env bash
# The benchmark of docs/demo_benchmark: six methods, four protocols, five seeds, MoCoOp's ablations. Finished runs are skipped.
# bash scripts/demo/benchmark.sh [--seeds "1 2" | --rates | --page] [--parts "base2new fewshot"]; settings (DATA, OUTPUT, JOBS): see scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
environment figures
exec "$PYTHON" "$CHECKOUT/scripts/demo/benchmark.py" "$@"
