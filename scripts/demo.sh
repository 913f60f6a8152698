#!/usr/bin/env bash
# The demo: base-to-new on the embedded demo world, three methods, three seeds; ends with the table. Finished runs are
# skipped, so a second call prints the table at once. SEEDS="1" or METHODS="zsclip mocoop" make it shorter.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
environment
DATASETS=demo_icons
read -ra METHODS <<<"${METHODS:-zsclip coop mocoop}"
read -ra SEEDS <<<"${SEEDS:-1 2 3}"
total=$((${#METHODS[@]} * ${#SEEDS[@]}))
count=0
for method in "${METHODS[@]}"; do
    for seed in "${SEEDS[@]}"; do
        count=$((count + 1))
        echo "== $count/$total: $method on demo_icons, seed $seed"
        for script in base2new_train base2new_test; do
            DATA=$DATA OUTPUT=$OUTPUT PYTHON=$PYTHON SHOTS=$SHOTS bash "$CHECKOUT/scripts/$method/$script.sh" demo_icons "$seed"
        done
    done
done
echo
(cd / && "$PYTHON" -m mocoop.results "$OUTPUT" --dataset demo_icons)
