import torch
from torch import Tensor, nn

import vitreg


def test_before_layer_scale_drop_path_and_residual(vit: object, images: Tensor) -> None:
    model = vit(init_values=0.1, drop_path_rate=0.5).eval()
    with vitreg.trace(model, "msa_output", "block_output") as trace:
        model(images)
    for index in (1, 2):
        block, entering = model.blocks[index], trace["block_output"][index - 1]
        literal = block.attn(block.norm1(entering))
        torch.testing.assert_close(trace["msa_output"][index], literal)
        middle = entering + block.ls1(literal)
        leaving = middle + block.ls2(block.mlp(block.norm2(middle)))
        torch.testing.assert_close(trace["block_output"][index], leaving)


def test_images_first_where_the_library_puts_tokens_first(images: Tensor) -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=False)
    from vitreg.families import families

    vitreg.list_families()
    reading = families.find(attention)(attention)
    tokens = torch.randn(5, 4, 8)
    returned = attention(tokens, tokens, tokens)
    output = reading.output.read({"output": returned})
    assert output.shape == (4, 5, 8)
    torch.testing.assert_close(output.transpose(0, 1), returned[0])


def test_after_the_output_projection(tower_model: nn.Module, images: Tensor) -> None:
    tower_model.eval()
    with vitreg.trace(tower_model, "msa_output") as trace:
        tower_model(images)
        before = trace["msa_output"][0]
        for name, parameter in tower_model.named_parameters():
            if "attn.proj." in name or "out_proj." in name:
                parameter.data.zero_()
        tower_model(images)
        assert before.abs().sum() > 0
        assert trace["msa_output"][0].abs().sum() == 0
