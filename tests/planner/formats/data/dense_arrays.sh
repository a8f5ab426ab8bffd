#!/bin/bash
# A dense model: arrays, defaults, arithmetic, a test, an array added to another.
NODES=${JOB_NODES:-"4"}
PER_NODE=8
RANKS=$(($PER_NODE * $NODES))
TENSOR=2
STAGES=4
SIZE="small"
KIND=float8

if [ ${SIZE} == "tiny" ]; then
    LAYERS=4
elif [[ "$SIZE" == "small" ]]; then
    LAYERS=24   # the branch that counts
else
    LAYERS=96
fi

while [[ $# -gt 0 ]]; do
    case $1 in
        --help) echo "--num-layers 7"; exit 0 ;;
    esac
    shift
done

LAUNCH=(
    --nproc_per_node $PER_NODE
    --nnodes $NODES
)
SHAPE=(
    --num-layers ${LAYERS}
    --hidden-size 2048
    --ffn-hidden-size 5632 # SwiGLU
    --num-attention-heads 16
    --group-query-attention --num-query-groups 4
    --swiglu --normalization RMSNorm --disable-bias-linear
    --position-embedding-type rope --rotary-base 500000
    --untie-embeddings-and-output-weights
    --seq-length 4096 --max-position-embeddings 8192
    # --num-experts 8
)
FORMATS=()
if [ -n "${KIND}" ] && [ "$KIND" != "bfloat16" ]; then
    FORMATS+=("--fp8-format hybrid")
fi
STEP=(--micro-batch-size=2 --global-batch-size 256 --bf16 --lr 3.0e-4)
REPLICAS=(
    --use-distributed-optimizer
    --overlap-grad-reduce
)
STEP+=("${REPLICAS[@]}")

torchrun ${LAUNCH[@]} pretrain_gpt.py \
    ${SHAPE[@]} ${STEP[@]} ${FORMATS[@]} --vocab-size 65536 \
    --tensor-model-parallel-size ${TENSOR} --pipeline-model-parallel-size $STAGES \
    --sequence-parallel --num-layers-per-virtual-pipeline-stage 3 \
    --recompute-granularity full --recompute-method block --recompute-num-layers 1 \
    --save "$1/with --tensor-model-parallel-size" | tee log
