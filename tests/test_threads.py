"""One model in several threads or tasks: each has its own passes and penalties."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import refuses
from small_models import make_vit
from vitreg import StateError

Pair = tuple[nn.Module, nn.Module]


class Slow(nn.Module):
    """Lets other threads run between the blocks."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp

    def forward(self, x: Tensor) -> Tensor:
        threading.Event().wait(0.001)
        x = x + self.attn(self.norm1(x))
        threading.Event().wait(0.001)
        return x + self.mlp(self.norm2(x))


@pytest.fixture
def slow_pair(perturb: Callable[[nn.Module], None]) -> Pair:
    source = make_vit()
    source.blocks = nn.Sequential(*map(Slow, source.blocks))
    model = copy.deepcopy(source).train()
    perturb(model)
    return model, source


@pytest.mark.parametrize("target", ["attn_logits", "block_output", "features"])
def test_each_thread_has_the_penalty_of_its_own_batch(slow_pair: Pair, target: str) -> None:
    model, source = slow_pair
    batches = [torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(6)]
    with vitreg.attach(model, source, target) as reg:

        def penalty_of(images: Tensor) -> float:
            model(images)
            return reg.penalty().item()

        expected = [penalty_of(images) for images in batches]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(penalty_of, batches * 4))
        assert found == pytest.approx(expected * 4, rel=1e-6)
        assert reg.step == len(batches) * 5
    assert len({round(value, 6) for value in expected}) == 6


def test_an_evaluation_beside_the_training(slow_pair: Pair, images: Tensor) -> None:
    model, source = slow_pair
    with vitreg.attach(model, source) as reg:
        model(images)
        expected = reg.penalty().item()
        done = threading.Event()

        def evaluate() -> None:
            with torch.no_grad():
                while not done.is_set():
                    model(3 * images)

        thread = threading.Thread(target=evaluate)
        thread.start()
        try:
            for _ in range(10):
                model(images)
                assert reg.penalty().item() == pytest.approx(expected, rel=1e-6)
        finally:
            done.set()
            thread.join()


def test_a_pass_is_of_the_thread_that_ran_it(pair: Pair, images: Tensor) -> None:
    model, source = pair
    with vitreg.attach(model, source) as reg, ThreadPoolExecutor(1) as pool:
        model(images)
        with refuses(StateError, "needs a forward pass", "none was seen"):
            pool.submit(reg.penalty).result()
        assert reg.penalty() > 0


def test_one_thread_after_the_other(pair: Pair, images: Tensor) -> None:
    model, source = pair
    with vitreg.attach(model, source) as reg:
        values = []
        for _ in range(3):

            def step() -> None:
                model(images)
                values.append(reg.penalty().item())

            thread = threading.Thread(target=step)
            thread.start()
            thread.join()
        assert values == pytest.approx(values[:1] * 3)
        assert not reg._readings._target_reader.threads.are_several


def test_a_thread_with_the_number_of_one_that_ended(pair: Pair, images: Tensor) -> None:
    """Which left a pass behind, without a penalty; systems use the numbers of threads again."""
    model, source = pair
    with vitreg.attach(model, source) as reg:
        model(images)
        expected, values = reg.penalty().item(), []
        for batch in (torch.randn_like(images), images):
            thread = threading.Thread(target=model, args=(batch,))
            if batch is images:
                thread = threading.Thread(target=lambda: (model(images), values.append(reg.penalty().item())))
            thread.start()
            thread.join()
        assert values == pytest.approx([expected], rel=1e-6)


def test_tasks_of_asyncio_that_take_turns(pair: Pair, images: Tensor) -> None:
    model, source = pair
    batches = [images, 2 * images, 3 * images]
    with vitreg.attach(model, source) as reg:

        def penalty_of(batch: Tensor) -> float:
            model(batch)
            return reg.penalty().item()

        expected = [penalty_of(batch) for batch in batches]

        async def task(batch: Tensor) -> float:
            model(batch)
            await asyncio.sleep(0)
            return reg.penalty().item()

        async def together() -> list[float]:
            return await asyncio.gather(*map(task, batches))

        for _ in range(2):
            assert asyncio.run(together()) == pytest.approx(expected, rel=1e-6)
        assert not reg._readings._target_reader.threads.are_several
        assert penalty_of(images) == pytest.approx(expected[0], rel=1e-6)
    assert len({round(value, 6) for value in expected}) == 3


def test_a_pass_of_a_task_that_ended(pair: Pair, images: Tensor) -> None:
    """As cells of a notebook are, which run one after the other in tasks of their own."""
    model, source = pair

    async def run() -> None:
        model(images)

    async def take(reg: vitreg.Attachment) -> float:
        return reg.penalty().item()

    with vitreg.attach(model, source) as reg:
        for _ in range(2):
            asyncio.run(run())
            value = asyncio.run(take(reg))
        model(images)
        assert reg.penalty().item() == pytest.approx(value, rel=1e-6)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_a_model_that_is_its_own_source_runs_in_one(images: Tensor) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8))
    model = get_peft_model(model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False)).train()
    with vitreg.attach(model, "base") as reg, ThreadPoolExecutor(1) as pool:
        model(images)
        assert reg.penalty() > 0
        pool.submit(model, images).result()
        model(images)
        with refuses(StateError, "one thread with source='base'", "several"):
            reg.penalty()
