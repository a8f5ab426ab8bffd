export EXPERTS=64
SHARED=" --moe-shared-expert-intermediate-size 2816 \
"
MODEL_ARGS=" \
    --num-layers 27 --hidden-size 2048 --ffn-hidden-size 10944 \
    --num-attention-heads 16 --kv-channels 128 \
    --multi-latent-attention --kv-lora-rank 512 --v-head-dim 128 --qk-head-dim 128 --qk-pos-emb-head-dim 64 \
    --swiglu --normalization RMSNorm --disable-bias-linear --untie-embeddings-and-output-weights \
    --position-embedding-type rope --seq-length 4096 \
    --num-experts ${EXPERTS} --moe-router-topk 6 --moe-ffn-hidden-size 1408 ${SHARED} \
    --moe-layer-freq [0]*1+[1]*26 --moe-router-pre-softmax \
    --expert-model-parallel-size 8 --expert-tensor-parallel-size 1 \
    --pipeline-model-parallel-size 2 --tensor-model-parallel-size 2 \
    --decoder-first-pipeline-num-layers 13 \
    --micro-batch-size 1 --global-batch-size 512 --padded-vocab-size 102400 --bf16 \
    --moe-expert-capacity-factor 1.5 --recompute-activations \
"
