#!/usr/bin/env bash
# Measure everything in docs/PERFORMANCE.md and write the page anew. About an hour and up to 20 GB of memory on two cores;
# nothing else should run. Measurements that are there already (OUTPUT/benchmarks/*.json) are kept: delete them to measure
# again. ViT-B/16's architecture with random weights; nothing is downloaded, no data set is needed.
#   REPEATS   timed repeats of a step (default 5)     PAGE   where the page goes (default docs/PERFORMANCE.md)
#   NOTES     a Markdown file for the end of the page
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
(($# == 0)) || fail "no arguments are expected, found: $*"
environment figures
REPEATS=${REPEATS:-5}
PAGE=${PAGE:-$CHECKOUT/docs/PERFORMANCE.md}
[[ $PAGE == /* ]] || PAGE=$PWD/$PAGE
NOTES=${NOTES:-}
[[ -z $NOTES || $NOTES == /* ]] || NOTES=$PWD/$NOTES
FIGURE=$(dirname "$PAGE")/performance-growth.svg
RESULTS=${OUTPUT:-$CHECKOUT/output}/benchmarks
[[ $RESULTS == /* ]] || RESULTS=$PWD/$RESULTS
FILES=()
mkdir -p "$RESULTS"
cd / # away from the checkout, whose folders would hide packages of the same names

# case_ NAME [arguments]: one call of mocoop.benchmarks.step, skipped if its file is there.
case_() {
    local file=$RESULTS/$1.json
    shift
    FILES+=("$file")
    if [[ -f $file ]]; then
        echo "measured already: $file"
        return
    fi
    echo "== $*"
    "$PYTHON" -m mocoop.benchmarks.step --backbone ViT-B/16 --repeats "$REPEATS" --profile --json "$file" "$@"
}

case_ 01-mocoop-train-5-10 --method MoCoOp --present 5 --all 10
case_ 02-mocoop-train-20-40 --method MoCoOp --present 20 --all 40
case_ 03-mocoop-train-20-40-frozen --method MoCoOp --present 20 --all 40 --frozen
case_ 04-mocoop-train-50-100 --method MoCoOp --present 50 --all 100
case_ 05-mocoop-eval-20-40 --method MoCoOp --present 20 --all 40 --eval
case_ 06-coop-train-50 --method CoOp --present 50
case_ 07-coop-eval-50 --method CoOp --present 50 --eval
case_ 08-cocoop-train-10 --method CoCoOp --present 10
case_ 09-cocoop-eval-10 --method CoCoOp --present 10 --eval
case_ 10-lasp-train-20-40 --method LASP --present 20 --all 40
case_ 11-lasp-eval-20-40 --method LASP --present 20 --all 40 --eval
case_ 12-mocoop-train-20-40-amp --method MoCoOp --present 20 --all 40 --prec amp
case_ 13-coop-train-50-resnet --method CoOp --present 50 --backbone RN50
REPEATS=1 case_ 14-mocoop-train-imagenet --method MoCoOp --present 1000 --all 1000 --experts 20 --batch 32 --chunk 800

FILES+=("$RESULTS/20-growth.json")
if [[ ! -f $RESULTS/20-growth.json || ! -f $FIGURE ]]; then
    echo "== growth with classes, experts and batch"
    "$PYTHON" -m mocoop.benchmarks.scale --repeats 3 --json "$RESULTS/20-growth.json" --figure "$FIGURE"
fi
"$PYTHON" -m mocoop.benchmarks.report "${FILES[@]}" --out "$PAGE" --figure "$FIGURE" ${NOTES:+--notes "$NOTES"}
echo "$PAGE"
