"""The linear probe as a model's own head: read the features, fit, write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from vitreg.errors import ArgumentError, MismatchError, in_words
from vitreg.functional.precision import autocast_now
from vitreg.linear_probe.probe import WEIGHT_DECAYS, LinearProbe, fit_probe
from vitreg.parameters.linear_head import LinearHead
from vitreg.sources.forward import evaluating
from vitreg.types import NewHead


def fit_head(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    new_head: NewHead | None = None,
) -> LinearProbe:
    """Fit the model's linear head to what the rest of the model makes of the pictures, and write it there.

    The model runs once over the pictures, in eval mode, without gradients and under the caller's autocast;
    what enters its head is fitted by `fit_probe`, and the head's weights are overwritten in place. Modes,
    flags and random numbers are afterwards what they were. Fine-tuning from this head, with a small learning
    rate, is LP-FT: a random head distorts the features while it learns.

    Give the loader the transform of evaluation: a picture that is augmented is another one each time. A
    `DataLoader` that shuffles or drops the last pictures is read in the order of its data set and to its end,
    so that fitting twice gives the same bits; any other iterable is read as it comes.

    The head may be timm's, torchvision's, transformers' or a `torch.nn.Linear` of your own around any tower,
    with dropout or norms before it. Two heads whose mean is returned (a distilled DeiT) are fitted together.
    A head in half precision gets the fitted weights rounded. In several processes each reads the whole of the
    same pictures, and all get the head of the first one.

    Args:
        model: a Vision Transformer with a linear head, or any module with one inside.
        loader: yields `(images, labels)` like a training loop's, or mappings with "labels" whose other
            entries the model is called with (transformers: "pixel_values"); images [b, c, height, width],
            labels class indices [b]. They are moved to the model's device and floating-point type.
        weight_decays: those that are tried, see `fit_probe`.
        new_head: names of the modules or parameters that are the task head, see `vitreg.freeze`.

    Returns:
        the probe that was written: its weight decay, its accuracies, and its logits for held-out pictures.

    Raises:
        ArgumentError: the loader yields something else or nothing, the labels do not fit the head's number of
            classes, or a class has no picture.
        UnsupportedModelError: there is no Vision Transformer, or its head is not linear.
        MismatchError: the processes read different labels.

    Source: Kumar et al. 2022 (ICLR), "Fine-Tuning can Distort Pretrained Features and Underperform
    Out-of-Distribution", arXiv 2202.10054 (LP-FT).
    """
    head = LinearHead(model, new_head)
    with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=[]), head:
        features, labels, first = _read(model, head, _in_order(loader))
        probe = fit_probe(
            features,
            labels,
            num_classes=head.num_classes,
            weight_decays=weight_decays,
            has_bias=head.has_bias,
        )
        _check_same_labels(probe.labels)
        before = [parameter.detach().clone() for parameter in head.parameters]
        head.write(probe.weight, probe.bias)
        _from_first_process(head.parameters)
        try:  # a model that scales or adds to its logits shows itself only now
            head.check_written(*head.read(partial(_run, model, first)))
        except BaseException:
            for parameter, value in zip(head.parameters, before, strict=True):
                parameter.copy_(value)
            torch.clear_autocast_cache()
            raise
    return probe


def _read(model: nn.Module, head: LinearHead, loader: Iterable[Any]) -> tuple[Tensor, Tensor, Any]:
    """Return what enters the head [n, d], the labels [n], and the first batch without its labels."""
    features: list[Tensor] = []
    labels: list[Tensor] = []
    first: Any = None
    for batch in loader:
        inputs, classes = _parts(batch)
        first = inputs if first is None else first
        rows, _ = head.read(partial(_run, model, inputs))
        if len(rows) != len(classes):
            raise ArgumentError(f"Expected a label for each of {len(rows)} images, found {len(classes)}.")
        # A GPU has the fit done in a moment; what else there is has no float64, or no more than the CPU.
        features.append(rows if rows.is_cuda else rows.cpu())
        labels.append(classes.to(features[-1].device))
    if not features:
        raise ArgumentError("Expected batches of pictures, found a loader that yields none.")
    return torch.cat(features), torch.cat(labels), first


def _parts(batch: Any) -> tuple[Any, Tensor]:
    """Return what the model is called with, and the class indices [b].

    Raises:
        ArgumentError: the batch is something else.
    """
    if isinstance(batch, Mapping):
        inputs: Any = {key: value for key, value in batch.items() if key != "labels"}
        labels = batch.get("labels")
    elif isinstance(batch, Sequence) and len(batch) >= 2:
        inputs, labels = batch[0], batch[1]
    else:
        inputs, labels = None, None
    if not isinstance(labels, Tensor):
        raise ArgumentError(
            "Expected batches (images, labels), or mappings with 'labels', as tensors; found "
            f"{_describe(batch)}."
        )
    if labels.dim() != 1 or labels.is_floating_point():
        raise ArgumentError(
            f"Expected labels that are class indices [b], found {in_words(labels)}. Turn mixup, CutMix and "
            "one-hot labels off."
        )
    return inputs, labels


def _describe(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a mapping with {', '.join(map(repr, batch)) or 'nothing'}"
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return f"({', '.join(map(in_words, batch))})"
    return in_words(batch)


def _run(model: nn.Module, inputs: Any) -> Any:
    """Run the model on images or, with their names, on several inputs."""
    parameter = next(model.parameters())

    def move(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.to(parameter.device, non_blocking=parameter.is_cuda)  # a CPU has to wait for it
        autocast = autocast_now(value)
        is_cast = value.is_floating_point() and not (autocast is not None and autocast[0])
        return value.to(parameter.dtype) if is_cast else value

    if isinstance(inputs, Mapping):
        return model(**{key: move(value) for key, value in inputs.items()})
    return model(move(inputs))


def _in_order(loader: Iterable[Any]) -> Iterable[Any]:
    """Return a loader of all pictures in the data set's order, where `loader` is a plain `DataLoader`."""
    if not isinstance(loader, DataLoader) or type(loader.batch_sampler) is not BatchSampler:
        return loader
    sampler = loader.sampler
    if type(sampler) is RandomSampler:
        is_whole = not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    else:
        is_whole = type(sampler) is SequentialSampler
    if not is_whole:
        return loader
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _check_same_labels(labels: Tensor) -> None:
    """Raise `MismatchError` in every process unless all have read the same labels in the same order."""
    if _processes() == 1:
        return
    found: list[list[int]] = [[] for _ in range(_processes())]
    dist.all_gather_object(found, labels.tolist())
    if any(other != found[0] for other in found):
        raise MismatchError(
            "Expected every process to read the same pictures in the same order, found "
            f"{', '.join(str(len(one)) for one in found)} pictures with different labels. Give fit_head the "
            "whole training set in each, without a DistributedSampler."
        )


def _from_first_process(parameters: Iterable[nn.Parameter]) -> None:
    """Give every process the first one's values, bit by bit."""
    if _processes() > 1:
        for parameter in parameters:
            dist.broadcast(parameter.data, src=0)
