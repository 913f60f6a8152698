"""The fast image tower against open_clip's own, forward and gradient of the LayerNorms."""

import pytest
import torch
from mocoop.clip.image import encode_image, is_plain_vit
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

VARIANTS = {
    "gelu": {},
    "layer scale": {"ls_init_value": 0.5},
    "average of the patches": {"pool_type": "avg"},
    "norm after pooling": {"pool_type": "avg", "final_ln_after_pool": True},
    "attention pooling": {"attentional_pool": True, "attn_pooler_queries": 3, "attn_pooler_heads": 2},
    "no norm before": {"no_ln_pre": True},
}


def make_vit(layers=3, **options):
    torch.manual_seed(2)
    sizes = {"width": 32, "layers": layers, "heads": 2, "mlp_ratio": 2.0, "output_dim": 16}
    tower = VisionTransformer(32, 16, **sizes, **options).eval()
    with torch.no_grad():
        for p in tower.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return tower.requires_grad_(False)


def norms(tower):
    return [p.requires_grad_() for b in tower.transformer.resblocks for m in (b.ln_1, b.ln_2) for p in m.parameters()]


def assert_equal_to_plain(tower):
    assert is_plain_vit(tower)
    params, image, weight = norms(tower), torch.randn(3, 3, 32, 32), torch.randn(3, tower.output_dim)
    results = [encode_image(tower, image), tower(image)]
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)
    fast, plain = (torch.autograd.grad((x * weight).sum(), params) for x in results)
    for a, b in zip(fast, plain, strict=True):
        assert b.abs().max() > 1e-5
        torch.testing.assert_close(a, b, atol=1e-5 * max(1, float(b.abs().max())), rtol=1e-5)


def test_quick_gelu(tiny_backbone):
    assert_equal_to_plain(tiny_backbone.visual)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_variants(options):
    assert_equal_to_plain(make_vit(**options))


@pytest.mark.parametrize("which", ["visual", "transformer.resblocks.1.mlp"])
def test_a_tower_with_a_hook_runs_as_it_is(tiny_backbone, which):
    module = tiny_backbone.visual if which == "visual" else tiny_backbone.visual.get_submodule(which)
    module.register_forward_hook(lambda module, inputs, output: 2 * output)
    image = torch.randn(2, 3, 32, 32)
    assert not is_plain_vit(tiny_backbone.visual)
    assert torch.equal(encode_image(tiny_backbone.visual, image), tiny_backbone.visual(image))


def test_under_autocast_sums_over_blocks_are_exact():
    """With twelve random blocks two thirds of the error of sums rounded to bfloat16 (half of it with a ViT-B/16)."""
    visual, image = make_vit(layers=12), torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = visual(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ours, plain = encode_image(visual, image).float(), visual(image).float()
    assert (ours - exact).abs().mean() < 0.8 * (plain - exact).abs().mean()


def test_other_towers_run_as_they_are(make):
    resnet = make.clip("rn").visual
    image = torch.randn(2, 3, 64, 64)
    assert not is_plain_vit(resnet) and not is_plain_vit(make_vit().train())
    other = make_vit()
    other.transformer.resblocks[1].__class__ = type("Other", (ResidualAttentionBlock,), {})
    assert is_plain_vit(make_vit()) and not is_plain_vit(other)
    with torch.no_grad():
        assert torch.equal(encode_image(resnet, image), resnet(image))


def test_a_tower_with_another_attention_in_a_block_runs_as_it_is(tiny_backbone):
    class Adapted(torch.nn.Module):
        """As an adapter (LoRA) wraps a layer."""

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *inputs, **options):
            out, _ = self.inner(*inputs, **options)
            return 3 * out, None

    visual, image = tiny_backbone.visual, torch.randn(2, 3, 32, 32)
    plain = visual(image)
    visual.transformer.resblocks[0].attn = Adapted(visual.transformer.resblocks[0].attn)
    assert not is_plain_vit(visual)
    assert torch.equal(encode_image(visual, image), visual(image)) and not torch.equal(visual(image), plain)


def test_less_is_kept_for_the_backward_pass(tiny_backbone):
    """Frozen layers keep nothing: per row, at most the inputs of two LayerNorms, q, k, v, the mixture, the MLP."""
    sizes = []
    for run in (encode_image, lambda tower, image: tower(image)):
        norms(tiny_backbone.visual)
        kept = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, kept=kept: kept.__setitem__(x.untyped_storage().data_ptr(), x.untyped_storage().nbytes()) or x,
            lambda x: x,
        ):
            keep = run(tiny_backbone.visual, torch.randn(8, 3, 32, 32))  # noqa: F841 (its graph must live)
        weights = {p.untyped_storage().data_ptr() for p in tiny_backbone.visual.parameters()}
        sizes.append(sum(size for address, size in kept.items() if address not in weights))
    assert sizes[0] < 0.7 * sizes[1]
