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

# fit SET NAME SEED: unless it is there already.
fit() {
    local run=$out/$1/$2-$3 flags=()
    [[ -d $run/final ]] && return
    if [[ $1 == real ]]; then
        flags+=(--set "data.splits_dir=$out/real-split")
        [[ -n ${TOKENIZER:-} ]] && flags+=(--set "model.tokenizer=$TOKENIZER")
    fi
    "$rmtrain" fit --config "$here/configs/experiments/$1.toml" --set "objective=${objectives[$2]}" \
        --set "train.seed=$3" "${flags[@]}" --out "$run" 2>"$out/$1-$2-$3.log" ||
        { echo "$run failed:" >&2; tail -n 5 "$out/$1-$2-$3.log" >&2; return 1; }
    "$rmtrain" eval --model "$run" --out "$run/eval.json" 2>>"$out/$1-$2-$3.log"
    echo "$run"
}

sets=sandbox
if [[ $file ]]; then
    sets="sandbox real"
    [[ -f $out/real-split/manifest.json ]] || "$rmtrain" split --input "$file" --out "$out/real-split" \
        ${VALID_MODELS:+--valid-models "$VALID_MODELS"} --heldout-prompts 0.2
fi
for set in $sets; do
    for seed in $seeds; do
        for name in $names; do
            while (($(jobs -rp | wc -l) >= jobs)); do wait -n; done
            fit "$set" "$name" "$seed" &
        done
    done
    wait
    "$rmtrain" report "$out/$set"/*/ --out "$out/$set.html" --markdown "$out/$set.md"
done
