#!/usr/bin/env bash
# Everything that wants a GPU, in one command: every CUDA kernel against the CPU's, fifty steps of training against the
# CPU's, and speed and memory by model, beside PyTorch where it is installed. Takes a binary that was built with
# `--features cuda`; the toolkit's libraries (libcublas, libcurand, libcudart) must be found at run time.
#
# usage: scripts/gpu-check.sh [RMTRAIN]
#   SHAPES="qwen2.5-3b ..."  TOKENS="2048 4096"  PAIRS=16  PYTHON=python3   what is measured, and with what
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
rmtrain=${1:-$here/../target/release/rmtrain}
shapes=${SHAPES:-qwen2.5-0.5b qwen2.5-1.5b qwen2.5-3b qwen2.5-7b llama-3.2-1b llama-3.2-3b llama-3.1-8b}
tokens=${TOKENS:-2048 4096}
pairs=${PAIRS:-16}
python=${PYTHON:-python3}
failed=0
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT

command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader

echo "== kernels, and fifty steps of training"
"$rmtrain" doctor --device cuda --trajectory 50 || failed=1

# f32 moments of the larger models do not fit beside their weights.
moments_of() {
    case $1 in *-7b | *-8b) echo 8-bit ;; *) echo f32 ;; esac
}

peer=
if "$python" -c 'import torch, transformers; assert torch.cuda.is_available()' 2>/dev/null; then peer=1; fi
[[ $peer ]] || echo "PyTorch and transformers with CUDA were not found: the peer is left out"

echo "== speed and memory: $pairs pairs a step, moments of 8 bits for 7B and 8B"
for shape in $shapes; do
    for length in $tokens; do
        echo "-- $shape, $length tokens"
        flags=(--tokens "$length" --pairs "$pairs" --moments "$(moments_of "$shape")")
        "$rmtrain" doctor --device cuda --speed "$shape" "${flags[@]}" --json || failed=1
        if [[ $peer ]]; then
            "$python" "$here/gpu_peer.py" "$shape" "${flags[@]}" 2>"$errors" || echo "the peer failed: $(tail -n 1 "$errors")"
        fi
    done
done
exit $failed
