"""Row-wise log-sum-exp of all pairwise similarities without the matrix of them: the memory of NT-Xent is O(N·d).

Similarities exist one tile at a time. The forward keeps a number a row, the backward computes the tiles again
(Rabe & Staats 2021, https://arxiv.org/abs/2112.05682, for attention). Exponentials are powers of 2, which torch
computes four times as fast as `exp` on CPUs; callers scale their vectors by √log₂e to make up for it.

Both directions are operators of torch's library, so that `torch.compile` keeps one graph and unrolls no tiles.
"""

import torch

# Rows of a tile, a quarter of its columns: a CPU's tile is about as large as the second-level caches of its cores, an
# accelerator needs more to be busy. More rows would waste more where pairs meet their mirror images.
CPU_TILE = 512
ACCELERATOR_TILE = 2048
# 2^±72 leaves room in float32 for the sum of 2^40 of them, and for their quotients.
MAX_UNSHIFTED = 72.0


def log2_sum_exp2_of_pairs(z: torch.Tensor, low_precision: bool = False) -> torch.Tensor:
    """log₂ Σ_{j≠i} 2^(zᵢ·zⱼ) for every row i, at half the products: each serves both of its rows.

    Args:
        z: (N, d), float32 or float64, with |zᵢ·zⱼ| at most `MAX_UNSHIFTED`: there is no shift by the maximum.
        low_precision: multiply in bfloat16; the values of `z` must be bfloat16's already.

    Returns:
        (N,), in the dtype of `z`. Its gradient can not be differentiated again.
    """
    return _log2_sum_exp2(z, None, 0, low_precision)


def log2_sum_exp2(
    anchors: torch.Tensor, candidates: torch.Tensor, offset: int, low_precision: bool = False
) -> torch.Tensor:
    """log₂ Σ_{j≠i+offset} 2^(anchorᵢ·candidateⱼ) for every anchor i, for similarities of any size.

    Args:
        anchors: (n, d), float32 or float64.
        candidates: (N, d), N ≥ 2, with the anchors among them.
        offset: where the first anchor is among the candidates.
        low_precision: multiply in bfloat16; the values of both must be bfloat16's already.

    Returns:
        (n,), in the dtype of `anchors`. Its gradient can not be differentiated again.
    """
    return _log2_sum_exp2(anchors, candidates, offset, low_precision)


@torch.library.custom_op("hf_ssl::log2_sum_exp2", mutates_args=())
def _log2_sum_exp2(
    anchors: torch.Tensor, candidates: torch.Tensor | None, offset: int, low_precision: bool
) -> torch.Tensor:
    with torch.autocast(anchors.device.type, enabled=False):
        if candidates is None:
            return _forward_of_pairs(anchors, low_precision)
        return _forward(anchors, candidates, offset, low_precision)


@torch.library.custom_op("hf_ssl::log2_sum_exp2_backward", mutates_args=())
def _log2_sum_exp2_backward(
    gradient: torch.Tensor,
    result: torch.Tensor,
    anchors: torch.Tensor,
    candidates: torch.Tensor | None,
    offset: int,
    low_precision: bool,
) -> list[torch.Tensor]:
    with torch.autocast(anchors.device.type, enabled=False):
        if candidates is None:
            return [_backward_of_pairs(gradient, result, anchors, low_precision)]
        return list(_backward(gradient, result, anchors, candidates, offset, low_precision))


def _forward_of_pairs(z: torch.Tensor, low_precision: bool) -> torch.Tensor:
    operand = _logit_operand(z, low_precision)
    total = z.new_zeros(len(z))
    for rows in _row_tiles(z):
        for columns in [rows, *_column_tiles(z, rows.stop)]:
            power = _product(operand[rows], operand[columns].T).exp2_()
            if rows == columns:
                power.fill_diagonal_(0)
            else:
                total[columns] += power.sum(0)
            total[rows] += power.sum(1)
            # Free before the next tile is made: one at a time.
            del power
    return total.log2_()


def _backward_of_pairs(
    gradient: torch.Tensor, result: torch.Tensor, z: torch.Tensor, low_precision: bool
) -> torch.Tensor:
    operand, dtype = _logit_operand(z, low_precision), _dtype(z, low_precision)
    total = torch.zeros_like(z)
    # Of ∂/∂(zᵢ·zⱼ), which is both rows' business: 2^(zᵢ·zⱼ) · (weightᵢ + weightⱼ).
    weight = gradient * (-result).exp2()
    for rows in _row_tiles(z):
        transposed = z[rows].to(dtype).T.contiguous()
        for columns in [rows, *_column_tiles(z, rows.stop)]:
            power = _product(operand[rows], operand[columns].T).exp2_()
            weights = torch.add(weight[rows, None], weight[columns])
            if rows == columns:
                weights.fill_diagonal_(0)
            power = power.mul_(weights).to(dtype)
            del weights
            total[rows] += _product(power, z[columns].to(dtype))
            if rows != columns:
                # Transposed, as a product with the transposed tile is half as fast on CPUs.
                total[columns] += _product(transposed, power).T
            del power
    return total


def _forward(anchors: torch.Tensor, candidates: torch.Tensor, offset: int, low_precision: bool) -> torch.Tensor:
    left, right = _logit_operand(anchors, low_precision), _logit_operand(candidates, low_precision)
    maximum = anchors.new_full((len(anchors),), float("-inf"))
    total = anchors.new_zeros(len(anchors))
    for rows in _row_tiles(anchors):
        for columns in _column_tiles(candidates):
            power = _product(left[rows], right[columns].T)
            power.diagonal(rows.start + offset - columns.start).fill_(float("-inf"))
            higher = torch.maximum(maximum[rows], power.amax(1))
            power.sub_(higher[:, None]).exp2_()
            total[rows] = total[rows] * (maximum[rows] - higher).exp2_() + power.sum(1)
            maximum[rows] = higher
            del power
    return total.log2_().add_(maximum)


def _backward(
    gradient: torch.Tensor,
    result: torch.Tensor,
    anchors: torch.Tensor,
    candidates: torch.Tensor,
    offset: int,
    low_precision: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    left, right = _logit_operand(anchors, low_precision), _logit_operand(candidates, low_precision)
    dtype = _dtype(anchors, low_precision)
    of_anchors, of_candidates = torch.zeros_like(anchors), torch.zeros_like(candidates)
    for rows in _row_tiles(anchors):
        weighted = (anchors[rows] * gradient[rows, None]).to(dtype).T.contiguous()
        for columns in _column_tiles(candidates):
            power = _product(left[rows], right[columns].T).sub_(result[rows, None]).exp2_()
            power.diagonal(rows.start + offset - columns.start).fill_(0)
            power = power.to(dtype)
            of_anchors[rows] += _product(power, candidates[columns].to(dtype))
            of_candidates[columns] += _product(weighted, power).T
            del power
    return of_anchors.mul_(gradient[:, None]), of_candidates


def _row_tiles(z: torch.Tensor) -> list[slice]:
    size = CPU_TILE if z.device.type == "cpu" else ACCELERATOR_TILE
    return [slice(start, min(start + size, len(z))) for start in range(0, len(z), size)]


def _column_tiles(z: torch.Tensor, start: int = 0) -> list[slice]:
    size = 4 * (CPU_TILE if z.device.type == "cpu" else ACCELERATOR_TILE)
    return [slice(first, min(first + size, len(z))) for first in range(start, len(z), size)]


def _dtype(z: torch.Tensor, low_precision: bool) -> torch.dtype:
    return torch.bfloat16 if low_precision else z.dtype


def _logit_operand(z: torch.Tensor, low_precision: bool) -> torch.Tensor:
    """What similarities are products of, so that they come out in float32 even where the factors are bfloat16."""
    # A CPU's bfloat16 product would round its result to bfloat16 too, which is too coarse for a logit.
    return z.bfloat16() if low_precision and z.device.type == "cuda" else z


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The matrix product a·b, in float32 at least."""
    if a.dtype == torch.bfloat16:
        return torch.mm(a, b, out_dtype=torch.float32) if a.device.type == "cuda" else torch.mm(a, b).float()
    if a.device.type == "cpu" and a.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        # oneDNN, which torch has no public name for: twice as fast as MKL, behind torch.mm, on AMD's CPUs.
        return torch.ops.mkldnn._linear_pointwise(a, b.T, None, "none", [], "")
    return torch.mm(a, b)


@_log2_sum_exp2.register_fake
def _(anchors, candidates, offset, low_precision):
    return anchors.new_empty(len(anchors))


@_log2_sum_exp2_backward.register_fake
def _(gradient, result, anchors, candidates, offset, low_precision):
    return [torch.empty_like(z) for z in (anchors, candidates) if z is not None]


def _setup_context(ctx, inputs, output):
    anchors, candidates, ctx.offset, ctx.low_precision = inputs
    ctx.save_for_backward(output, anchors, candidates)


def _differentiate(ctx, gradient):
    result, anchors, candidates = ctx.saved_tensors
    gradients = _log2_sum_exp2_backward(gradient, result, anchors, candidates, ctx.offset, ctx.low_precision)
    return gradients[0], None if candidates is None else gradients[1], None, None


_log2_sum_exp2.register_autograd(_differentiate, setup_context=_setup_context)
