"""Checks that two sides compute the same thing, which come before they are timed."""

from collections.abc import Mapping, Sequence

import torch

from hf_ssl.benchmark.measuring import CheckFailedError


def relative_difference(ours: torch.Tensor, peer: torch.Tensor) -> float:
    """|ours − peer| / |peer| in the Euclidean norm, in float64."""
    ours, peer = ours.detach().double().cpu(), peer.detach().double().cpu()
    return ((ours - peer).norm() / peer.norm().clamp_min(1e-300)).item()


def check_close(what: str, ours: torch.Tensor, peer: torch.Tensor, tolerance: float) -> str:
    """Check that two tensors are alike.

    Args:
        what: their name in messages: "loss".
        ours: any shape.
        peer: the same shape.
        tolerance: of `relative_difference`.

    Returns:
        What was found: "loss to 3e-07 (tolerance 1e-05)".

    Raises:
        CheckFailedError: if shapes differ, a value is not finite, or the difference is beyond the tolerance.
    """
    if ours.shape != peer.shape:
        raise CheckFailedError(f"{what}: ours has shape {tuple(ours.shape)}, the peer's {tuple(peer.shape)}")
    difference = relative_difference(ours, peer)
    # Not `difference > tolerance`: NaN would pass.
    if not difference <= tolerance:
        raise CheckFailedError(f"{what}: differs by {difference:.2g} relative to the peer's (tolerance {tolerance:g})")
    return f"{what} to {difference:.0e} (tolerance {tolerance:g})"


def check_gradients(
    ours: Mapping[str, torch.Tensor], peer: Mapping[str, torch.Tensor], tolerance: float, what: str = "gradient"
) -> str:
    """Check all gradients as one vector, so that those that are zero but for rounding do not count by themselves.

    Args:
        ours: gradients by a name that both sides share.
        peer: the same names and shapes.
        tolerance: of `relative_difference`.
        what: their name in messages.

    Raises:
        CheckFailedError: as `check_close`, or if the names differ.
    """
    if ours.keys() != peer.keys():
        lacking = sorted(ours.keys() ^ peer.keys())
        raise CheckFailedError(f"{what}: '{lacking[0]}' is on one side alone")
    for name in ours:
        if ours[name].shape != peer[name].shape:
            raise CheckFailedError(f"{what} of {name}: {tuple(ours[name].shape)} and {tuple(peer[name].shape)}")

    def flat(gradients: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([gradients[name].detach().flatten().float() for name in ours])

    return check_close(what, flat(ours), flat(peer), tolerance)


def check_statistics(what: str, ours: torch.Tensor, peer: torch.Tensor, tolerance: float) -> str:
    """Check that two random samples have the same moments: mean and standard deviation over all their values.

    Args:
        what: their name in messages: "views".
        ours: any number of samples, of the same shape but for the first dimension.
        peer: likewise.
        tolerance: absolute, of both moments, in the values' unit.

    Raises:
        CheckFailedError: if shapes differ beyond the first dimension, or a moment does.
    """
    if ours.shape[1:] != peer.shape[1:]:
        raise CheckFailedError(f"{what}: ours have shape {tuple(ours.shape[1:])}, the peer's {tuple(peer.shape[1:])}")
    found = []
    for moment in ("mean", "std"):
        mine, theirs = getattr(ours.double(), moment)().item(), getattr(peer.double(), moment)().item()
        if not abs(mine - theirs) <= tolerance:
            raise CheckFailedError(
                f"{what}: {moment} is {mine:.4f} and the peer's {theirs:.4f}, apart by more than {tolerance:g}"
            )
        found.append(f"{moment} {mine:.3f} and {theirs:.3f}")
    return f"{what}: {', '.join(found)} (tolerance {tolerance:g})"


def join(found: Sequence[str]) -> str:
    """Several findings as one line."""
    return "; ".join(found)
