"""The views of a loader's batches, rendered in its threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from hf_ssl.augment.host.rendering import render_view
from hf_ssl.augment.policy import ViewPolicy
from hf_ssl.augment.sampling import draw_view

# Sides of views, in pixels, below which calls of OpenCV are so short that several threads would spend more time on
# handing each other the interpreter's lock than they gain (measured on two cores: at 64, a third slower than one).
SMALL = 104

RenderRows = Callable[[Sequence[np.ndarray], Tensor, slice], None]


class HostViews:
    """Draws the parameters of a batch's views at once, and renders its images a few at a time, as they are decoded.

    Args:
        policies: one for each view, at least one.
        output_size: side of a view in pixels.
        make_generator: gives, for the position of a batch in the run, the CPU generator that determines its views.

    Raises:
        ValueError: no policy.
    """

    def __init__(
        self, policies: Sequence[ViewPolicy], output_size: int, make_generator: Callable[[int], torch.Generator]
    ):
        if not policies:
            raise ValueError("policies is empty; pass one ViewPolicy for each view, such as [ViewPolicy()] for one.")
        self.policies = policies
        self.output_size = output_size
        self.make_generator = make_generator

    @property
    def max_threads(self) -> int | None:
        """How many threads should render at a time; None for any number."""
        return 1 if self.output_size < SMALL else None

    def start(self, index: int, batch: int, pin_memory: bool = False) -> tuple[Tensor, RenderRows]:
        """Begin a batch.

        Args:
            index: position of the batch in the run.
            batch: number of its images, B.
            pin_memory: whether the views are to lie in page-locked memory.

        Returns:
            The views, uint8 (B, V, S, S, 3), not rendered yet; and a function that renders some rows of them from the
            decoded images (height, width, 3), the sizes (rows, 2) of the originals, and the slice of B that they are.
        """
        generator = self.make_generator(index)
        draws = [draw_view(policy, batch, generator) for policy in self.policies]
        shape = (batch, len(draws), self.output_size, self.output_size, 3)
        views = torch.empty(shape, dtype=torch.uint8, pin_memory=pin_memory)

        def render_rows(images: Sequence[np.ndarray], sizes: Tensor, rows: slice) -> None:
            for number, draw in enumerate(draws):
                render_view(images, draw.fit(sizes, rows), views.numpy()[rows, number])

        return views, render_rows
