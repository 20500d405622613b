"""The values of penalties on what is read in one forward pass of the model and of its source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from vitreg.attachment.alignment import align, arguments_for, block_pairs, runs_source
from vitreg.attachment.given import between_passes, needed_values, split
from vitreg.attachment.gradients import depend_on_weights, trained_before
from vitreg.attachment.tokens import check_order, check_tokens
from vitreg.errors import ArgumentError, StateError, UnsupportedModelError
from vitreg.extractors import extractors
from vitreg.penalties import GivenPenalty, PassPenalty, ReadingPenalty
from vitreg.reader import WITHOUT_GRADIENTS, ForwardPass, Reader
from vitreg.sources.frozen import Source
from vitreg.types import Key, Passes, Tower, ViewNumbers


class Readings:
    """A reader of the model, one of the source, and the penalties on what both read.

    Args:
        tower: the trained model's Vision Transformer.
        source: the source; needed if a penalty needs one.
        penalties: the penalties by name.
        passes: which passes count, see `Reader`.
    """

    def __init__(
        self,
        tower: Tower,
        source: Source | None,
        penalties: Mapping[str, ReadingPenalty],
        passes: Passes | None,
    ) -> None:
        self._tower = tower
        self._source = source
        theirs = None if source is None else source.tower
        self._penalties = {name: penalty.bound(tower, theirs) for name, penalty in penalties.items()}
        self.blocks = {
            name: block_pairs(p, tower, theirs if p.runs_source else None) for name, p in penalties.items()
        }
        self._target_reader: Reader | None = None
        self._source_reader: Reader | None = None
        guided = [name for name, penalty in penalties.items() if runs_source(penalty)]
        counted = any(not extractors[penalties[name].extractor].per_block for name in guided)
        try:
            if guided and source is not None:
                wanted = self._read_blocks(guided, source=True)
                self._source_reader = Reader(source.tower, wanted, compared=True, counted=counted, stop=True)
                self._source_reader.enabled = False
            if penalties:
                self._target_reader = Reader(
                    tower,
                    self._read_blocks(penalties),
                    passes=passes,
                    training_only=True,
                    compared=bool(guided),
                    counted=counted,
                )
        except BaseException:
            self.remove()
            raise

    def values(
        self,
        views: ViewNumbers | None,
        given: Mapping[str, Tensor | None],
        choose: Callable[[int], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return each penalty's unweighted value in the passes that count, and forget them.

        With several passes it is the mean over their images. `views` are the numbers of these, for a source
        that remembers them, and `given` is what the caller knows of them: labels and masks. `choose` returns
        which of so many images of a pass count; None for all.

        Raises:
            StateError: no training forward pass since the last call, several calls of which it is not said
                which count, or nothing that is read is trained.
            MismatchError: model and source read different shapes, images or tokens.
            UnsupportedModelError: the source cannot be run as the model was.
        """
        reader = self._target_reader
        if reader is None:
            return {}
        if not reader.complete() or reader.images is None:
            if reader.skipped == WITHOUT_GRADIENTS and not trained_before(self._tower, None):
                return {name: self._zero() for name in self._penalties}  # as many run what is frozen
            raise StateError(
                "A penalty needs a forward pass of the model in training mode since the last one; "
                f"{reader.skipped or self._cut_short(reader)}."
            )
        replaced = reader.find_replaced()
        if replaced is not None:
            raise StateError(
                f"{replaced!r} was replaced after attaching, as an adapter or a new head does, so what "
                "is read is no longer what the model computes. Attach again, after the model is complete."
            )
        try:
            passes = reader.all_passes()
            counts = [0 if one.images is None else len(one.images) for one in passes]
            if not all(counts):
                raise ArgumentError(
                    "Expected at least one image in a batch, found an empty one, which has no mean. Skip it, "
                    "or use drop_last=True in the data loader."
                )
            if any(one.inputs_changed() for one in passes):
                raise StateError(
                    "The images were changed in place since the model saw them, so the source would see "
                    "others. Take the penalty before the next batch is written into the same tensor."
                )
            chosen = None if choose is None else [choose(count) for count in counts]
            if chosen is not None:
                passes = [one.part(rows) for one, rows in zip(passes, chosen, strict=True)]
            each = {name: split(name, value, counts, chosen) for name, value in given.items()}
            numbers = split("views", views, counts, chosen)
            values = [
                self._values_of(one, numbers[index], {name: parts[index] for name, parts in each.items()})
                for index, one in enumerate(passes)
            ]
            between = between_passes(self._penalties, self.blocks, passes)
            if len(passes) == 1:
                return values[0]
            total = sum(counts)
            means = {
                name: torch.stack([c / total * v[name] for c, v in zip(counts, values, strict=True)]).sum()
                for name in self._penalties
            }
            return means | between
        finally:
            self._clear("its penalty was taken already; run the model again")

    def _values_of(
        self, one: ForwardPass, views: ViewNumbers | None, given: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Return each penalty's value in one pass."""
        joined = {name for name, penalty in self._penalties.items() if self._has_joined(name, penalty, one)}
        needed = any(runs_source(self._penalties[name]) for name in joined)
        if joined and self._source is not None:
            self._source.follow(self._tower.module)  # its head, too, where nothing runs it
        if needed and self._source_reader is not None and self._source is not None:
            self._read_source(self._source, self._source_reader, one, views)
        return {
            name: self._value(name, penalty, one, given) if name in joined else self._zero()
            for name, penalty in self._penalties.items()
        }

    def _read_source(
        self, source: Source, reader: Reader, one: ForwardPass, views: ViewNumbers | None
    ) -> None:
        """Run the source as the model ran, and compare what the tokens are."""
        assert one.images is not None
        resize = any(p.align == "resample" for p in self._penalties.values() if p.needs_source)
        more = arguments_for(self._tower, source.tower, one, resize)
        source.read(
            reader, one.images, one.autocast, more=more, random=one.random_state, resize=resize, views=views
        )
        if one.is_part and source.is_random:
            raise UnsupportedModelError(
                f"Expected a source that reads the same of a picture in any batch, found that "
                f"{type(source.tower.module).__name__} draws random numbers in eval mode. Attach without "
                "fraction."
            )
        same_depth = len(one.tower.blocks) == len(source.tower.blocks)
        for ours, theirs in zip(one.entering, reader.last.entering[: 2 if same_depth else 1], strict=False):
            check_order(ours, theirs, is_random=source.is_random)
        for either in (one, reader.last):
            if either.leaving is not None:
                check_tokens("block_output", either.tower.blocks[-1], either, either.leaving)
        if not torch.compiler.is_compiling():
            for of_either in (self._target_reader, self._source_reader):
                if of_either is not None:
                    of_either.notes_tokens = source.is_random  # the order of others is always the same

    def read_next(self, wanted: bool) -> None:
        """Say whether the next forward pass is read."""
        if self._target_reader is not None:
            self._target_reader.enabled = wanted

    def remove(self) -> None:
        """Remove the hooks and forget the last pass."""
        for reader in (self._target_reader, self._source_reader):
            if reader is not None:
                reader.remove()
        self._clear("the attachment was removed")

    def _clear(self, reason: str) -> None:
        for reader in (self._target_reader, self._source_reader):
            if reader is not None:
                reader.clear(reason)

    def _cut_short(self, reader: Reader) -> str:
        name, _, index = reader.missing()[0]
        return (
            f"the last one did not deliver {name} of block {index}: the module it is read from did not run "
            "(features are what enters the model's own head: one that was reset needs a new attachment, a "
            "tower whose forward calls none is registered with heads=())"
        )

    def _read_blocks(self, names: Iterable[str], *, source: bool = False) -> dict[Key, set[int]]:
        wanted: dict[Key, set[int]] = {}
        for name in names:
            penalty, pairs = self._penalties[name], self.blocks[name]
            indices = pairs.values() if source else pairs
            wanted.setdefault((penalty.extractor, penalty.query), set()).update(indices)
        return wanted

    def _zero(self) -> Tensor:
        return torch.zeros((), device=next(self._tower.module.parameters()).device, dtype=torch.float32)

    def _has_joined(self, name: str, penalty: ReadingPenalty, one: ForwardPass) -> bool:
        """Return whether something is trained that the penalty's readings depend on; it is zero until then.

        Raises:
            StateError: it is, and yet there would be no gradient.
        """
        target = one.of((penalty.extractor, penalty.query), self.blocks[name])
        last = max(self.blocks[name]) if extractors[penalty.extractor].per_block else None
        is_trained = trained_before(self._tower, last)
        if any(value.requires_grad for value in target):
            return is_trained or depend_on_weights(target, one.given_tensors())
        if is_trained:
            raise StateError(
                f"{name!r} reads {penalty.extractor}, none of which depends on a parameter that is trained, "
                "so its gradient would be zero. Unfreeze the blocks that it reads, or remove the attachment."
            )
        return False

    def _value(
        self, name: str, penalty: ReadingPenalty, one: ForwardPass, given: Mapping[str, Any]
    ) -> Tensor:
        if isinstance(penalty, PassPenalty):
            return self._zero()  # its value is that of all passes
        target = one.of((penalty.extractor, penalty.query), self.blocks[name])
        source: list[Tensor] = []  # `list[Tensor]()` breaks a compiled graph
        if self._source_reader is not None and runs_source(penalty):
            target, source = align(penalty, self.blocks[name], one, self._source_reader.last)
        if isinstance(penalty, GivenPenalty):
            return penalty.value(target, source, needed_values(name, penalty, self.blocks[name], one, given))
        return penalty.value(target, source)
