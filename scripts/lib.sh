# Shared by the scripts of this folder; sourced, not run. Every script works from any directory.
#
# Settings, all optional, from the environment:
#   DATA    folder of the data sets         (default: data in this checkout)
#   OUTPUT  folder for the runs             (default: output in this checkout)
#   PYTHON  the interpreter                 (default: the active environment's, else .venv in this checkout, else python)
#   SHOTS   training images per class       (default: 16)
#   CFG     name of the method's config     (default: see default_config)
#   TAG     added to the config's name in the folder of the run, to keep runs with other options apart
# Relative paths in DATA and OUTPUT are relative to where you are.

set -euo pipefail
CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DATA=${DATA:-$CHECKOUT/data}
OUTPUT=${OUTPUT:-$CHECKOUT/output}
SHOTS=${SHOTS:-16}
[[ $DATA == /* ]] || DATA=$PWD/$DATA
[[ $OUTPUT == /* ]] || OUTPUT=$PWD/$OUTPUT

# fail MESSAGE: one message, exit code 1.
fail() {
    echo "Error: $*" >&2
    exit 1
}

# The interpreter of the active environment, else of this checkout's .venv, else the first Python on the PATH.
find_python() {
    if [[ -z ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} && -x $CHECKOUT/.venv/bin/python ]]; then
        echo "$CHECKOUT/.venv/bin/python"
    else
        command -v python || command -v python3 || fail "no python found; install Python 3.10 or newer, or set PYTHON"
    fi
}
PYTHON=${PYTHON:-$(find_python)}
[[ $PYTHON != */* || $PYTHON == /* ]] || PYTHON=$PWD/$PYTHON

# default_config METHOD DATASET: the config that a data set is run with unless CFG says otherwise. CoOp and CoCoOp: as in
# CoCoOp's base-to-new scripts. LASP: as in its logs (there is none for ImageNet). MoCoOp: its authors do not say which
# schedule goes with which data set; this is LASP's choice among the schedules of the same names, a plausible guess.
default_config() {
    case $1/$2 in
        */demo_*) echo demo ;;
        ZeroshotCLIP*/*) echo vit_b16 ;;
        CoOp/imagenet*) echo vit_b16_ep50_ctxv1 ;;
        CoOp/*) echo vit_b16_ctxv1 ;;
        CoCoOp/*) echo vit_b16_c4_ep10_batch1_ctxv1 ;;
        LASP/imagenet* | LASP/food101) echo vit_b16_c4_ep10_batch1_cls_t2t_5_wcl_25_g1_b ;;
        LASP/caltech101 | LASP/dtd | LASP/ucf101) echo vit_b16_c4_ep50_batch32_cls_t2t_10_wcl_25_g1_b_lr32 ;;
        LASP/eurosat) echo vit_b16_c4_ep300_batch32_cls_t2t_5_wcl_25_g1_b_lr32 ;;
        LASP/*) echo vit_b16_c4_ep25_batch32_cls_t2t_5_wcl_25_g1_b_lr32 ;;
        MoCoOp/imagenet*) echo vit_b16_ep10_batch1_imagenet ;;
        MoCoOp/food101) echo vit_b16_ep10_batch1 ;;
        MoCoOp/caltech101 | MoCoOp/dtd | MoCoOp/ucf101) echo vit_b16_ep50_batch32 ;;
        MoCoOp/eurosat) echo vit_b16_ep300_batch32 ;;
        MoCoOp/*) echo vit_b16_ep25_batch32 ;;
        *) fail "no default config for $1; set CFG" ;;
    esac
}

# parse METHOD DATASET SEED [options]: sets METHOD, DATASET, SEED, CONFIG and the array OPTIONS.
# DATASET is a name of configs/datasets, or the path of a yaml file of your own (its name then names the run).
parse() {
    if (($# < 3)); then
        fail "usage: bash $0 DATASET SEED [KEY VALUE ...], e.g. bash $0 demo_icons 1 OPTIM.MAX_EPOCH 5"
    fi
    METHOD=$1 DATASET=$2 SEED=$3
    OPTIONS=("${@:4}")
    DATASET_FILE=$CHECKOUT/configs/datasets/$DATASET.yaml
    if [[ $DATASET == *.yaml ]]; then
        DATASET_FILE=$DATASET
        DATASET=$(basename "$DATASET" .yaml)
    fi
    CONFIG=${CFG:-$(default_config "$METHOD" "$DATASET")}
    if [[ $DATASET == image_folder ]]; then  # there DATA is the data set
        DATASET=image_folder-$(basename "$DATA")
    fi
}

# run_dir PROTOCOL: the folder of the run that parse has described.
run_dir() {
    echo "$OUTPUT/$1/$DATASET/shots_$SHOTS/$METHOD/$CONFIG${TAG:+-$TAG}/seed$SEED"
}

# Whether the method has nothing to train.
untrained() {
    [[ $METHOD == ZeroshotCLIP* ]]
}

# run FOLDER [arguments]: one call of train.py, skipped if the folder holds a finished run; an unfinished one goes on.
# (ZeroshotCLIP2 has ZeroshotCLIP's configs.)
run() {
    local folder=$1
    shift
    if [[ -f $folder/DONE ]]; then
        echo "done already: $folder (delete it to run it again)"
        return
    fi
    echo "$([[ -e $folder/log.txt ]] && echo "going on with" || echo "starting") $folder"
    "$PYTHON" "$CHECKOUT/train.py" --root "$DATA" --seed "$SEED" --trainer "$METHOD" \
        --dataset-config-file "$DATASET_FILE" --config-file "$CHECKOUT/configs/trainers/${METHOD%2}/$CONFIG.yaml" \
        --output-dir "$folder" "$@" DATASET.NUM_SHOTS "$SHOTS" ${OPTIONS[@]+"${OPTIONS[@]}"}
}

# run_test MODEL FOLDER [arguments]: test the model of the finished run MODEL; tested again if MODEL was trained again.
run_test() {
    local model=$1 folder=$2
    shift 2
    if untrained; then
        run "$folder" --eval-only "$@"
        return
    fi
    [[ -f $model/DONE ]] || fail "the run to be tested is not finished: $model (train it first)"
    if [[ -f $folder/DONE && $model/DONE -nt $folder/DONE ]]; then
        rm "$folder/DONE"
    fi
    run "$folder" --eval-only --model-dir "$model" "$@"
}

# Base-to-new, first half: train on the base classes (the first half of the classes) and test on them.
base2new_train() {
    parse "$@"
    run "$(run_dir base2new/train_base)" DATASET.SUBSAMPLE_CLASSES base
}

# Base-to-new, second half: test on the new classes what base2new_train has trained.
base2new_test() {
    parse "$@"
    run_test "$(run_dir base2new/train_base)" "$(run_dir base2new/test_new)" DATASET.SUBSAMPLE_CLASSES new
}

# installed PYTHON [EXTRA]: whether that interpreter has this very checkout installed, with all it requires.
installed() {
    (cd / && "$1" - "$CHECKOUT" "${2:-}" <<'PYTHON_CODE') 2>/dev/null
import importlib.metadata as metadata
import importlib.util
import re
import sys
from pathlib import Path

checkout, extra = sys.argv[1:]
spec = importlib.util.find_spec("mocoop")
if spec is None or Path(spec.origin).resolve().parent != Path(checkout).resolve():
    sys.exit(1)
for requirement in metadata.requires("mocoop"):
    name, _, marker = requirement.partition(";")
    if "extra ==" not in marker or (extra and re.search(f"extra == ['\"]{extra}['\"]", marker)):
        metadata.version(re.match(r"[\w.-]+", name)[0])  # raises if it is not installed
PYTHON_CODE
}

# environment [EXTRA]: sets PYTHON to an interpreter with this checkout installed. An active environment (or $PYTHON) that
# has it is used as it is; else .venv is made in the checkout, once, and brought up to date when setup.py changes.
environment() {
    local extra=${1:-} venv=$CHECKOUT/.venv stamp
    if [[ $PYTHON != "$venv/bin/python" ]] && installed "$PYTHON" "$extra"; then
        echo "Environment: $PYTHON (this checkout is installed in it)"
        return
    fi
    stamp=$venv/.mocoop${extra:+-$extra}-$(cat "$CHECKOUT/setup.py" "$CHECKOUT/pyproject.toml" | cksum | cut -d' ' -f1)
    if [[ ! -x $venv/bin/python ]]; then
        "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
            fail "$PYTHON is $("$PYTHON" -V 2>&1); Python 3.10 or newer is needed (set PYTHON to one)"
        echo "Environment: making $venv"
        "$PYTHON" -m venv "$venv" || fail "cannot make $venv (on Debian and Ubuntu: apt install python3-venv)"
    fi
    PYTHON=$venv/bin/python
    if [[ ! -e $stamp ]]; then
        echo "Environment: installing into $venv (the first time, PyTorch makes this a large download)"
        "$PYTHON" -m pip install -e "$CHECKOUT${extra:+[$extra]}" || fail "the installation failed; see pip's message above"
        touch "$stamp"
    fi
    echo "Environment: $PYTHON"
}
