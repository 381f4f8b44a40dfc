#!/usr/bin/env bash
# The paper's diagnosis at laptop scale: six objectives, several seeds, the four scenarios, and the norms that explain
# them. On the sandbox, and on real responses where a file of them is given (UltraFeedback's raw rows, say, or any that
# `rmtrain split` reads). Ends with a page and Markdown tables by `rmtrain report` for each set, seeds as groups. Run again,
# it goes on with the runs that are not there yet.
#
# usage: scripts/experiments.sh [FILE]
#   OUT=runs/experiments  SEEDS="0 1 2 3 4"  JOBS=2   where to, which seeds, runs at once
#   OBJECTIVES="bt bsr .."                             which of the six
#   VALID_MODELS=A,B,..   TOKENIZER=FOLDER|ID          the models that `split` holds out; instead of Qwen2.5's
#   RMTRAIN=target/release/rmtrain
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
rmtrain=${RMTRAIN:-$here/target/release/rmtrain}
out=${OUT:-runs/experiments}
seeds=${SEEDS:-0 1 2 3 4}
jobs=${JOBS:-2}
file=${1:-}
# Each run its share of the processors.
export RAYON_NUM_THREADS=$((($(nproc) + jobs - 1) / jobs))
mkdir -p "$out"

declare -A objectives=(
    [bt]='[{kind="bradley-terry"}]'
    [bsr]='[{kind="bradley-terry"},{kind="sum-to-zero",lambda=0.1}]'
    [hinge]='[{kind="hinge"}]'
    [normalized]='[{kind="normalized"}]'
    [direct]='[{kind="direct"}]'
    [center]='[{kind="bradley-terry"},{kind="center"}]'
)
names=${OBJECTIVES:-bt bsr hinge normalized direct center}

# run SET NAME SEED: trains and evaluates, each unless it is done already.
run() {
    local run=$out/$1/$2-$3 log=$out/$1-$2-$3.log flags=()
    if [[ ! -d $run/final ]]; then
        if [[ $1 == real ]]; then
            flags+=(--set "data.splits_dir=$out/real-split")
            [[ -n ${TOKENIZER:-} ]] && flags+=(--set "model.tokenizer=$TOKENIZER")
        fi
        "$rmtrain" fit --config "$here/configs/experiments/$1.toml" --set "objective=${objectives[$2]}" \
            --set "train.seed=$3" "${flags[@]}" --out "$run" --resume 2>"$log" || { fails "$run" "$log"; return 1; }
    fi
    if [[ ! -f $run/eval.json ]]; then
        "$rmtrain" eval --model "$run" --out "$run/eval.json" 2>>"$log" || { fails "$run" "$log"; return 1; }
    fi
    echo "$run"
}

fails() {
    echo "$1 failed, $2 ends with:" >&2
    tail -n 5 "$2" >&2
}

sets=sandbox
if [[ $file ]]; then
    sets="sandbox real"
    settings="$(realpath "$file") ${VALID_MODELS:-}"
    if [[ ! -f $out/real-split/manifest.json ]]; then
        "$rmtrain" split --input "$file" --out "$out/real-split" \
            ${VALID_MODELS:+--valid-models "$VALID_MODELS"} --heldout-prompts 0.2
        echo "$settings" >"$out/real-split.settings"
    elif [[ $(cat "$out/real-split.settings") != "$settings" ]]; then
        echo "$out/real-split is of: $(cat "$out/real-split.settings")" >&2
        echo "asked for:  $settings" >&2
        echo "choose another OUT, or remove $out/real-split and $out/real" >&2
        exit 2
    fi
fi
failed=0
for set in $sets; do
    for seed in $seeds; do
        for name in $names; do
            while (($(jobs -rp | wc -l) >= jobs)); do wait -n || failed=$((failed + 1)); done
            run "$set" "$name" "$seed" &
        done
    done
    while (($(jobs -p | wc -l) > 0)); do wait -n || failed=$((failed + 1)); done
    "$rmtrain" report "$out/$set"/*/ --out "$out/$set.html" --markdown "$out/$set.md" --svg "$out/$set-plots"
done
if ((failed)); then
    echo "$failed runs failed; run this again to go on with them" >&2
    exit 1
fi
