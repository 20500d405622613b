"""How a run is optimised and how its pictures are mixed; the same for every method."""

from __future__ import annotations

from dataclasses import dataclass, field

from vitreg.errors import InputError


@dataclass(frozen=True)
class Mixing:
    """How pictures are mixed in pairs: Beta parameters of mixup and CutMix, 0 switches one off.

    `switch` is the probability of CutMix where both are on.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    switch: float = 0.5

    def __bool__(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0


# NOTE[DIFF]: the paper does not state its settings of TransMix; these are those of the authors' code (Chen
# et al. 2022), unless other mixing is requested.
TRANSMIX = Mixing(mixup=0.8, cutmix=1.0, switch=0.8)


@dataclass(frozen=True)
class Hyperparameters:
    """How a run is optimised; the same for every method.

    Attributes:
        views: in how many ways each picture is augmented, each of which is computed once, and read once by a
            source; 0 for anew each time.
        every: the penalty is taken on every so many steps, and as much stronger.
        fraction: of what random part of a step's pictures, or of each of its parts', the penalty is taken.
        balance: how large the penalty's gradient is kept beside the loss's; 0 for λ as it is.
        layer_decay: by what the learning rate falls from each layer to the one before it, in every method; 1
            for what the method itself says.
        micro_batch: how many pictures of a batch a process computes at once, to the same gradients up to
            rounding; 0 for as many as its device's memory holds, None for all.
        compile: whether model, loss and penalty are compiled together, to the same figures up to rounding.
        grad_checkpointing: whether blocks are computed again in the backward pass, to the same figures.
        fsdp: whether several processes share the weights, gradients and AdamW's state out among them, to the
            same figures up to rounding.
    """

    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup_epochs: float = 0.0
    smoothing: float = 0.0
    drop_path: float = 0.0
    mixing: Mixing = field(default_factory=Mixing)
    views: int = 0
    every: int = 1
    fraction: float = 1.0
    balance: float = 0.0
    layer_decay: float = 1.0
    micro_batch: int | None = None
    compile: bool = False
    grad_checkpointing: bool = False
    fsdp: bool = False

    def __post_init__(self) -> None:
        given = str(self.micro_batch).replace("auto", "0")  # as the options have it
        if self.micro_batch is not None and not given.isdecimal():
            raise InputError(f"--micro-batch {given}: expected a whole number above 0, or auto")
        object.__setattr__(self, "micro_batch", None if self.micro_batch is None else int(given))
