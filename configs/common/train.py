"""Defaults of a training run: detrex's keys with detrex's values where not noted, and this project's own below them.

A `train` section that lacks a key gets it from here, so one written for detrex works as it stands.
"""

train = dict(
    output_dir="./output",
    init_checkpoint="",  # weights to start from: a file, an URL or detectron2://...; "" = as the model was built
    max_iter=90000,
    amp=dict(
        enabled=False,
        dtype=None,  # "bfloat16" or "float16"; None = bfloat16 where the device has it, else float16 with a scaler
    ),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    clip_grad=dict(enabled=False, params=dict(max_norm=0.1, norm_type=2)),
    seed=-1,  # fixes initial weights, data order, augmentation and noise; -1 = a new one, kept by --resume
    fast_dev_run=dict(enabled=False),  # 20 iterations, an evaluation every 10, a log line for each
    checkpointer=dict(period=5000, max_to_keep=100),
    eval_period=5000,
    log_period=20,
    wandb=dict(
        enabled=False,  # needs `pip install wandb`
        params=dict(dir="./wandb_output", project="dinov2_detrex", name="dinov2_detrex_experiment"),
    ),
    model_ema=dict(enabled=False, decay=0.999, device="", use_ema_weights_for_eval_only=False),
    device=None,  # None = "cuda" where there is one, else "cpu" (detrex: "cuda")
    # ---- not in detrex ----
    accumulate=dict(
        steps=1,  # each batch of total_batch_size images goes through the model in this many parts, to save memory
        weight_by="boxes",  # what the model's losses are averaged over: "boxes" (DETR-type losses) or "images"
    ),
    scale_lr=dict(
        reference_batch_size=0,  # the learning rate is meant for this batch size and scaled to the real one; 0 = off
        rule="linear",  # or "sqrt"
    ),
    best_checkpoint=dict(
        enabled=True,  # model_best.pth: the best evaluated weights; never what --resume continues from
        metric="",  # e.g. "bbox/AP50"; "" = "bbox/AP", or "ema/bbox/AP" with model_ema
        mode="max",
    ),
    early_stopping=dict(patience=0, min_delta=0.0),  # evaluations without a better metric before the end; 0 = never
    validation_loss=dict(enabled=False),  # also write the losses on dataloader.test as validation/...
    divergence=dict(factor=100.0, window=200),  # end when the loss exceeds factor x its median of the last iterations
    deterministic=False,  # deterministic algorithms on the GPU too (slower); a CPU run always repeats itself
    cudnn_benchmark=False,
    float32_precision="",  # "highest", "high" (TF32) or "medium"; "" = as torch has it
    fsdp=dict(
        enabled=False,  # shard parameters, gradients and optimizer state over the processes (FSDP2) instead of DDP
        modules=["blocks", "encoder.layers", "decoder.layers"],  # ends of names; their members are sharded one by one
    ),
)
