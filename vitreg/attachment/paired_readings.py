"""The values of penalties on what is read in one forward pass of the model and of its source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from vitreg.attachment.alignment import aligned, block_pairs
from vitreg.errors import MismatchError, StateError
from vitreg.penalties import ReadingPenalty
from vitreg.reader import Key, Reader
from vitreg.sources.frozen import Source
from vitreg.types import Tower, ViewNumbers


class Readings:
    """A reader of the model, one of the source, and the penalties on what both read.

    Args:
        tower: the trained model's Vision Transformer.
        source: the source; needed if a penalty needs one.
        penalties: the penalties by name.
    """

    def __init__(self, tower: Tower, source: Source | None, penalties: Mapping[str, ReadingPenalty]) -> None:
        self._tower = tower
        self._source = source
        self._penalties = penalties
        self.blocks = {
            name: block_pairs(p, tower, None if source is None else source.tower)
            for name, p in penalties.items()
        }
        self._target_reader: Reader | None = None
        self._source_reader: Reader | None = None
        self._droppers: list[Any] = [
            m for m in tower.module.modules() if type(m).__name__.startswith("PatchDropout")
        ]
        guided = [name for name, penalty in penalties.items() if penalty.needs_source]
        try:
            if guided and source is not None:
                wanted = self._wanted(guided, source=True)
                self._source_reader = Reader(source.tower, wanted, stop=True)
                self._source_reader.enabled = False
            if penalties:
                self._target_reader = Reader(tower, self._wanted(penalties), training_only=True)
        except BaseException:
            self.remove()
            raise

    def values(self, views: ViewNumbers | None) -> dict[str, Tensor]:
        """Return each penalty's unweighted value in the last forward pass, and forget the pass.

        `views` are the numbers of its pictures, for a source that remembers them.

        Raises:
            StateError: no training forward pass since the last call, or nothing that is read is trained.
            MismatchError: model and source read different shapes.
        """
        reader = self._target_reader
        if reader is None:
            return {}
        if not reader.complete() or reader.images is None:
            raise StateError(
                "A penalty needs a forward pass of the model in training mode since the last one; "
                f"{reader.skipped or self._cut_short(reader)}."
            )
        if reader.images_changed():
            raise StateError(
                "The images were changed in place since the model saw them, so the source would see others. "
                "Take the penalty before the next batch is written into the same tensor."
            )
        replaced = reader.replaced()
        if replaced is not None:
            raise StateError(
                f"{replaced!r} was replaced after attaching, as an adapter or a new head does, so what "
                "is read is no longer what the model computes. Attach again, after the model is complete."
            )
        try:
            if self._source_reader is not None and self._source is not None:
                if any(dropout.prob > 0 for dropout in self._droppers):
                    raise MismatchError(
                        "Token dropping (patch_drop_rate, patch_dropout) must be off: it shuffles the "
                        "model's tokens, and the source sees all of them."
                    )
                resize = any(p.align == "resample" for p in self._penalties.values() if p.needs_source)
                images, autocast = reader.images, reader.autocast
                self._source.follow(self._tower.module)
                self._source.read(self._source_reader, images, autocast, resize=resize, views=views)
            return {name: self._value(name, penalty, reader) for name, penalty in self._penalties.items()}
        finally:
            self._clear("its penalty was taken already; run the model again")

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
            "(features need the model's own head; a head that was reset needs a new attachment)"
        )

    def _wanted(self, names: Iterable[str], *, source: bool = False) -> dict[Key, set[int]]:
        wanted: dict[Key, set[int]] = {}
        for name in names:
            penalty, pairs = self._penalties[name], self.blocks[name]
            indices = pairs.values() if source else pairs
            wanted.setdefault((penalty.extractor, penalty.query), set()).update(indices)
        return wanted

    def _read_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters on which something that is read may depend: all but the heads'."""
        module = self._tower.module
        heads = {id(p) for name in self._tower.heads for p in module.get_submodule(name).parameters()}
        yield from (p for p in module.parameters() if id(p) not in heads)

    def _value(self, name: str, penalty: ReadingPenalty, reader: Reader) -> Tensor:
        key: Key = (penalty.extractor, penalty.query)
        target = reader.of(key, self.blocks[name])
        trained = any(p.requires_grad for p in self._read_parameters())
        if not trained or not any(value.requires_grad for value in target):
            raise StateError(
                f"{name!r} reads {penalty.extractor}, none of which depends on a parameter that is trained, "
                "so its gradient would be zero. Unfreeze the blocks that it reads, or remove the attachment."
            )
        if self._source_reader is None or not penalty.needs_source:
            return penalty.value(target, [])
        return penalty.value(*aligned(penalty, self.blocks[name], reader, self._source_reader))
