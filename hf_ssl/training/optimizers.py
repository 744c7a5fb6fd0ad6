"""Optimisers and learning-rate schedules, from torch, timm and transformers, as recipes name them."""

import torch
from timm.optim import Lars, param_groups_weight_decay
from torch import nn
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup

from hf_ssl.training.arguments import PretrainArguments

# Learned offsets, not weights: decay would pull them to zero (MAE's code, `util/lr_decay.py`).
TOKENS = ("pos_embed", "cls_token", "mask_token", "reg_token", "decoder_pos_embed")


def create_optimizer(model: nn.Module, arguments: PretrainArguments, learning_rate: float) -> torch.optim.Optimizer:
    """Build the optimiser; biases, norms, positions and tokens have no weight decay, and LARS does not scale them."""
    undecayed = [name for name, _ in model.named_parameters() if name.rsplit(".", 1)[-1] in TOKENS]
    groups = param_groups_weight_decay(model, arguments.weight_decay, no_weight_decay_list=undecayed)
    betas = (arguments.adam_beta1, arguments.adam_beta2)
    if arguments.optimizer == "adam":
        return torch.optim.Adam(groups, lr=learning_rate, betas=betas, fused=True)
    if arguments.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)
    if arguments.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=arguments.momentum, fused=True)
    # timm's first group is the undecayed one. Weights are scaled even where the recipe's weight decay is 0.
    for group, is_scaled in zip(groups, (False, True), strict=True):
        group["always_adapt"] = is_scaled
    return Lars(
        groups,
        lr=learning_rate,
        momentum=arguments.momentum,
        trust_coeff=arguments.lars_trust_coefficient,
        trust_clip=arguments.lars_trust_clip,
    )


def create_schedule(
    optimizer: torch.optim.Optimizer, arguments: PretrainArguments, total_steps: int, steps_per_epoch: float
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up from 0, then a constant rate or half a cosine down to 0 at the last step."""
    warmup_steps = round(arguments.warmup_epochs * steps_per_epoch)
    if arguments.lr_schedule == "constant":
        return get_constant_schedule_with_warmup(optimizer, warmup_steps)
    return get_cosine_schedule_with_warmup(optimizer, warmup_steps, total_steps)
