import pytest
import torch
from torch import Tensor

import vitreg
from laws import num_hooks
from small_models import make_vit
from vitreg.hooks import eagerly

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


def test_it_is_not_compiled() -> None:
    compiling = []

    @eagerly
    def inner(x: Tensor) -> Tensor:
        compiling.append(torch.compiler.is_compiling())
        return 2 * x

    compiled = torch.compile(lambda x: inner(x + 1) + 1, backend="eager")
    assert compiled(torch.ones(2)).tolist() == [5, 5]
    assert compiling == [False]


@pytest.mark.slow
def test_attach_in_a_compiled_function(images: Tensor) -> None:
    torch._dynamo.reset()
    model = make_vit().train()
    source = make_vit()

    def penalty() -> Tensor:
        with vitreg.attach(model, source) as attachment:
            model(images)
            return attachment.penalty()

    expected = penalty()
    torch.testing.assert_close(torch.compile(penalty, backend="eager")(), expected)
    assert num_hooks(model) == 0
