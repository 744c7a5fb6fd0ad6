"""How a linear probe is trained: by L-BFGS to the optimum, or by a published schedule of SGD or LARS.

Learning rate and weight decay may be several, a grid: the best is chosen on a tenth of the training images.
"""

import itertools
import math
from dataclasses import dataclass, field
from typing import Literal

SOLVERS = ("lbfgs", "sgd", "lars")
SCHEDULES = ("constant", "step", "cosine")
EXAMPLES = {
    "sgd": "solo-learn: learning_rate 1.0, epochs 100, batch_size 256",
    "lars": "MAE: learning_rate 6.4, epochs 90, batch_size 16384",
}


@dataclass
class ProbeArguments:
    """Arguments of the linear probe; the classifier after the last epoch counts, never the best one.

    The objective is mean cross-entropy + weight_decay / 2 · |W|², the biases not penalised. `learning_rate` and
    `weight_decay` may be given as a number or as a list of them; a list of one becomes that number.

    Raises:
        ValueError: a value that is not allowed, one that the solver lacks, or one that it does not use.
    """

    solver: Literal["lbfgs", "sgd", "lars"] = field(
        default="lbfgs", metadata={"help": "lbfgs: full-batch logistic regression; sgd, lars: minibatches."}
    )
    batch_norm: bool = field(
        default=True, metadata={"help": "Standardise the features by a batch norm without affine parameters."}
    )
    # The parser of the command line knows lists and numbers, and no union of both.
    weight_decay: list[float] | None = field(
        default=None,
        metadata={
            "help": "Of the weights; of several, the best on a tenth of the training images. lbfgs has its own choice."
        },
    )
    max_iterations: int = field(default=100, metadata={"help": "Of lbfgs."})
    learning_rate: list[float] | None = field(
        default=None,
        metadata={"help": "Peak of sgd and lars, whatever the batch size; of several, the best, as above."},
    )
    epochs: int | None = field(default=None, metadata={"help": "Of sgd and lars."})
    batch_size: int | None = field(default=None, metadata={"help": "Of sgd and lars."})
    schedule: Literal["constant", "step", "cosine"] = field(
        default="cosine", metadata={"help": "Of sgd and lars, after the warm-up."}
    )
    milestones: list[int] = field(
        default_factory=list, metadata={"help": "Epochs at which the schedule step divides the rate by 10."}
    )
    warmup_epochs: int = field(
        default=0, metadata={"help": "Epochs over which the rate of sgd and lars rises from 0."}
    )
    momentum: float = field(default=0.9, metadata={"help": "Of sgd and lars."})
    seed: int = field(default=0, metadata={"help": "Of held-out images, initialisation and order."})

    def __post_init__(self):
        self.weight_decay = _number_or_list("weight_decay", self.weight_decay)
        self.learning_rate = _number_or_list("learning_rate", self.learning_rate)
        self._check("solver", self.solver in SOLVERS, f"among {', '.join(SOLVERS)}")
        self._check("schedule", self.schedule in SCHEDULES, f"among {', '.join(SCHEDULES)}")
        self._check(
            "weight_decay", all(0 <= value < math.inf for value in self.weight_decays), "of 0 or more, and finite"
        )
        self._check("max_iterations", self.max_iterations >= 1, "of at least 1")
        self._check("momentum", 0 <= self.momentum < 1, "in [0, 1)")
        self._check("seed", self.seed >= 0, "of 0 or more")
        if self.solver == "lbfgs":
            self._check_without_epochs()
        else:
            self._check_with_epochs()

    @property
    def weight_decays(self) -> list[float]:
        """Those to choose from, if more than one; none where the solver has a choice of its own."""
        return _as_list(self.weight_decay)

    @property
    def learning_rates(self) -> list[float]:
        """Those to choose from, if more than one; none for lbfgs."""
        return _as_list(self.learning_rate)

    def _check_without_epochs(self) -> None:
        for name in ("learning_rate", "epochs", "batch_size", "milestones", "warmup_epochs"):
            if getattr(self, name):
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but the solver lbfgs has none; leave it out, or set "
                    "solver to sgd or lars."
                )

    def _check_with_epochs(self) -> None:
        for name in ("learning_rate", "epochs", "batch_size"):
            if getattr(self, name) is None:
                raise ValueError(
                    f"{name} is missing for the solver {self.solver}; give one ({EXAMPLES[self.solver]})."
                )
            values = self.learning_rates if name == "learning_rate" else [getattr(self, name)]
            self._check(name, all(0 < value < math.inf for value in values), "above 0, and finite")
        if self.weight_decay is None:
            raise ValueError(
                f"weight_decay is missing for the solver {self.solver}, as only lbfgs chooses one; give it "
                "(0 in solo-learn and MAE)."
            )
        self._check("warmup_epochs", 0 <= self.warmup_epochs < self.epochs, f"from 0 to {self.epochs - 1}")
        if (self.schedule == "step") != bool(self.milestones):
            raise ValueError(
                f"schedule is {self.schedule} and milestones is {self.milestones}; give milestones, such as "
                "[60, 80], with the schedule step and with no other."
            )
        increasing = all(first < second for first, second in itertools.pairwise([0, *self.milestones]))
        self._check("milestones", increasing, "of increasing epochs above 0")

    def _check(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise ValueError(f"{name} is {getattr(self, name)}; choose a value {allowed}.")


def _number_or_list(name: str, value: float | list[float] | None) -> float | list[float] | None:
    if not isinstance(value, list):
        return value
    if not value:
        raise ValueError(f"{name} is an empty list; give at least one number, or leave it out.")
    # YAML reads 1e-3 as text.
    try:
        numbers = [float(number) for number in value]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {value}; give numbers, such as [0.1, 1].") from error
    return numbers[0] if len(numbers) == 1 else numbers


def _as_list(value: float | list[float] | None) -> list[float]:
    return [] if value is None else value if isinstance(value, list) else [value]
