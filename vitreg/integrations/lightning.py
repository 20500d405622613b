"""Lightning: the penalty joins the training loss just before the backward pass."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor

from vitreg.attachment.attach import Attachment
from vitreg.errors import ArgumentError
from vitreg.sources.cached import refuse_cached


class Guide(Callback):
    """Add an attachment's penalty to a LightningModule's loss: `Trainer(callbacks=[Guide(attachment)])`.

    `training_step` stays what it is. Lightning hands the loss over divided by the number of accumulated
    batches and scaled for float16, so the penalty is divided and scaled likewise and added in place; the loss
    that Lightning shows is the one without. Each term is logged as `penalty/name`, and the hooks are removed
    when fitting ends. A `lam` that is a function receives the number of optimiser steps.
    """

    def __init__(self, attachment: Attachment) -> None:
        refuse_cached(attachment.source)
        self.attachment = attachment

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what hands over a loss of unknown scale."""
        if not pl_module.automatic_optimization:
            raise ArgumentError(
                "The guide needs automatic optimisation: in manual optimisation the loss is yours. "
                "Add attachment.penalty() to it in training_step."
            )
        plugin = type(trainer.precision_plugin)
        if plugin.backward is not Precision.backward:
            raise ArgumentError(
                f"The guide needs Lightning's own backward pass, found that of {plugin.__name__}, which may "
                "scale the loss afterwards. Add attachment.penalty() to the loss in training_step."
            )

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Add the penalty to `loss`, in place."""
        penalty = self.attachment.penalty(trainer.global_step) / trainer.accumulate_grad_batches
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        loss.add_(penalty if scaler is None else scaler.scale(penalty))
        pl_module.log_dict({f"penalty/{name}": value for name, value in self.attachment.terms.items()})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the hooks."""
        self.attachment.remove()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hooks, as fitting does not end."""
        self.attachment.remove()
