"""How a linear probe is trained: by L-BFGS to the optimum, or by a published schedule of SGD or LARS."""

import itertools
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

    The objective is mean cross-entropy + weight_decay / 2 · |W|², the biases not penalised.

    Raises:
        ValueError: a value that is not allowed, one that the solver lacks, or one that it does not use.
    """

    solver: Literal["lbfgs", "sgd", "lars"] = field(
        default="lbfgs", metadata={"help": "lbfgs: full-batch logistic regression; sgd, lars: minibatches."}
    )
    batch_norm: bool = field(
        default=True, metadata={"help": "Standardise the features by a batch norm without affine parameters."}
    )
    weight_decay: float | None = field(
        default=None, metadata={"help": "Of the weights; lbfgs chooses it on a tenth of the training images."}
    )
    max_iterations: int = field(default=100, metadata={"help": "Of lbfgs."})
    learning_rate: float | None = field(
        default=None, metadata={"help": "Peak of sgd and lars, whatever the batch size."}
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
        self._check("solver", self.solver in SOLVERS, f"among {', '.join(SOLVERS)}")
        self._check("schedule", self.schedule in SCHEDULES, f"among {', '.join(SCHEDULES)}")
        self._check("weight_decay", self.weight_decay is None or self.weight_decay >= 0, "of 0 or more")
        self._check("max_iterations", self.max_iterations >= 1, "of at least 1")
        self._check("momentum", 0 <= self.momentum < 1, "in [0, 1)")
        self._check("seed", self.seed >= 0, "of 0 or more")
        if self.solver == "lbfgs":
            self._check_without_epochs()
        else:
            self._check_with_epochs()

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
            self._check(name, getattr(self, name) > 0, "above 0")
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
