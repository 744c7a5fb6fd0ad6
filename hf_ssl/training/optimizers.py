"""Optimisers and learning-rate schedules, from torch, timm and transformers, as recipes name them."""

import torch
from timm.optim import Lars
from torch import nn
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup

from hf_ssl.training.arguments import PretrainArguments

# Learned offsets, not weights: decay would pull them to zero (MAE's code, `util/lr_decay.py`).
TOKENS = ("pos_embed", "cls_token", "mask_token", "reg_token", "decoder_pos_embed")


def create_optimizer(model: nn.Module, arguments: PretrainArguments, learning_rate: float) -> torch.optim.Optimizer:
    """Build the optimiser; biases, norms, positions and tokens have no weight decay, and LARS does not scale them."""
    groups = [{"params": [], "weight_decay": 0.0}, {"params": [], "weight_decay": arguments.weight_decay}]
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            is_weight = weight.dim() > 1 and name.rsplit(".", 1)[-1] not in TOKENS
            groups[is_weight]["params"].append(weight)
    betas = (arguments.adam_beta1, arguments.adam_beta2)
    if arguments.optimizer == "adam":
        return torch.optim.Adam(groups, lr=learning_rate, betas=betas, fused=True)
    if arguments.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)
    if arguments.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=arguments.momentum, fused=True)
    # timm scales a group with weight decay, or if told to: weights also where the recipe's weight decay is 0.
    groups[1]["always_adapt"] = True
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
