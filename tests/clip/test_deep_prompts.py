"""Deep prompts on the fast paths against plain loops over open_clip's own blocks, forward and gradient."""

import inspect

import pytest
import torch
from mocoop.clip import load_backbone
from mocoop.clip.deep_prompts import prompt_layers
from mocoop.clip.image import encode_image, is_plain_vit
from mocoop.clip.layout import context_slot, make_layout
from mocoop.clip.text import TextEncoder, encode_chunked
from open_clip.transformer import VisionTransformer

NAMES = ["cat", "herbaceous vegetation land", "1955 chevrolet bel air coupe", "sea or lake"]
VITS = {
    "class token": {},
    "average of the patches": {"pool_type": "avg"},
    "norm after pooling": {"pool_type": "avg", "final_ln_after_pool": True},
    "attention pooling": {"attentional_pool": True, "attn_pooler_queries": 3, "attn_pooler_heads": 2},
    "no norm before": {"no_ln_pre": True},
    "layer scale": {"ls_init_value": 0.5},
    "other blocks": {"qk_norm": True},
}


@pytest.fixture(scope="module")
def demo():
    return load_backbone("demo")


@pytest.fixture(scope="module")
def experts(tokenizer):
    """Three experts: vectors before the name, vectors on both sides, and one vector beside fixed words."""
    rows = [row[: row.argmax() + 1].tolist() for row in tokenizer([name + "." for name in NAMES])]
    of_a = tokenizer(["of a"])[0, 1:3].tolist()
    a, b, c, d, e, f = (context_slot(i) for i in range(6))
    return [
        [[row[0], a, b, *row[1:]] for row in rows],
        [[row[0], c, *row[1:-2], d, e, *row[-2:]] for row in rows],
        [[row[0], f, *of_a, *row[1:]] for row in rows],
    ]


def plain_text(model, prompts, layers):
    """One prompt at a time on 77 positions, through open_clip's blocks, vectors written over their rows."""
    features = []
    for prompt in prompts:
        places = [i for i, entry in enumerate(prompt) if entry < 0]
        slots = [-prompt[i] - 1 for i in places]
        ids = torch.tensor([max(entry, 0) for entry in prompt] + [0] * (77 - len(prompt)))
        x = model.token_embedding(ids).clone()
        for j, block in enumerate(model.transformer.resblocks):
            if j < len(layers):
                x = x.clone()
                x[places] = layers[j][slots]
            if j == 0:
                x = x + model.positional_embedding
            x = block(x[None], attn_mask=model.attn_mask)[0]
        features.append(model.ln_final(x)[len(prompt) - 1] @ model.text_projection)
    return torch.stack(features)


def assert_same(fast, slow, parameters):
    """Equal features, and equal gradients of their weighted sums in two lists of parameters."""
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    weight = torch.randn(fast.shape, generator=torch.Generator().manual_seed(5))
    got = torch.autograd.grad((fast * weight).sum(), parameters)
    want = torch.autograd.grad((slow * weight).sum(), parameters)
    for a, b in zip(got, want, strict=True):
        assert b.reshape(-1, b.shape[-1]).abs().amax(dim=-1).min() > 1e-6  # every vector of every layer matters
        torch.testing.assert_close(a, b, atol=1e-5 * max(1, float(b.abs().max())), rtol=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("which", ["tiny", "demo"])
def test_text_equals_a_plain_loop(which, layers, experts, tiny_clip, demo):
    model = tiny_clip if which == "tiny" else demo.model
    torch.manual_seed(layers)
    context = (0.3 * torch.randn(layers, 6, model.token_embedding.weight.shape[1])).requires_grad_()
    want = torch.stack([plain_text(model, prompts, context) for prompts in experts])
    assert_same(TextEncoder(model)(make_layout(experts), context), want, [context])


def test_one_layer_is_the_input(tiny_clip, experts):
    encoder, layout, context = TextEncoder(tiny_clip), make_layout(experts), torch.randn(6, 32)
    assert torch.equal(encoder(layout, context[None]), encoder(layout, context))


def test_text_in_chunks(tiny_clip, experts):
    torch.manual_seed(1)
    context = torch.randn(3, 6, 32, requires_grad=True)
    layouts = [make_layout([prompts[i : i + 2] for prompts in experts]) for i in (0, 2)]
    want = torch.stack([plain_text(tiny_clip, prompts, context) for prompts in experts])
    assert_same(encode_chunked(TextEncoder(tiny_clip), layouts, context), want, [context])


def test_text_repeated_for_each_image(tiny_clip, experts):
    """CoCoOp's prompts, deep: every image has context vectors of its own in every layer."""
    torch.manual_seed(2)
    context = torch.randn(2, 3, 6, 32, requires_grad=True)  # [J, images, V, W]
    layout = make_layout(experts).repeat(3, contexts=6)
    want = [plain_text(tiny_clip, prompts, context[:, b]) for b in range(3) for prompts in experts]
    assert_same(TextEncoder(tiny_clip)(layout, context.flatten(1, 2)), torch.stack(want), [context])


def test_prompts_that_do_not_fit_are_refused(tiny_clip, experts):
    encoder, layout = TextEncoder(tiny_clip), make_layout(experts)
    with pytest.raises(ValueError, match=r"shape \[J, n, 32\] with 1 to 3 layers.*found \[4, 6, 32\]"):
        encoder(layout, torch.zeros(4, 6, 32))
    with pytest.raises(ValueError, match=r"found \[1, 6, 24\]"):
        encoder(layout, torch.zeros(6, 24))
    with pytest.raises(ValueError, match=r"\[J, n, 32\] with 1 to 2 layers.*found \[3, 4, 32\]"):
        encode_image(tiny_clip.visual, torch.zeros(1, 3, 32, 32), torch.zeros(3, 4, 32))
    assert prompt_layers(None, blocks=2, width=8) == ()


def make_vit(layers=3, **options):
    torch.manual_seed(2)
    sizes = {"width": 32, "layers": layers, "heads": 2, "mlp_ratio": 2.0, "output_dim": 16}
    tower = VisionTransformer(32, 8, **sizes, **options).eval()
    with torch.no_grad():
        for p in tower.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return tower.requires_grad_(False)


def plain_image(tower, image, layers):
    """open_clip's tower, written out, with tokens behind the patches; what is pooled are the other rows."""
    x = tower.conv1(image).flatten(2).mT
    x = torch.cat([tower.class_embedding.expand(len(x), 1, -1), x], dim=1) + tower.positional_embedding
    length = x.shape[1]
    x = tower.ln_pre(torch.cat([x, layers[0].expand(len(x), -1, -1)], dim=1))
    for j, block in enumerate(tower.transformer.resblocks):
        if 0 < j < len(layers):
            x = torch.cat([x[:, :length], layers[j].expand(len(x), -1, -1)], dim=1)
        x = block(x)
    return tower._pool(x[:, :length])[0] @ tower.proj


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("options", VITS.values(), ids=VITS)
def test_image_equals_a_plain_loop(options, layers):
    if set(options) - set(inspect.signature(VisionTransformer).parameters):
        pytest.skip(f"the installed open_clip has no {', '.join(options)}")
    tower = make_vit(**options)
    assert is_plain_vit(tower) == ("qk_norm" not in options)
    tokens, image = torch.randn(layers, 4, 32, requires_grad=True), torch.randn(3, 3, 32, 32)
    norm = tower.transformer.resblocks[1].ln_1.weight.requires_grad_()  # may learn as well
    assert_same(encode_image(tower, image, tokens), plain_image(tower, image, tokens), [tokens, norm])


def test_image_of_the_demo_backbone(demo):
    """Another patch embedding, average pooling."""
    tokens, image = torch.randn(3, 4, 160, requires_grad=True), torch.randn(2, 3, 48, 48)
    assert_same(encode_image(demo.visual, image, tokens), plain_image(demo.visual, image, tokens), [tokens])


def test_image_tokens_that_nobody_attends_to_change_nothing():
    """Tokens are never read themselves: with all values zero in the first block's attention, as if they were absent."""
    tower, image = make_vit(layers=1, pool_type="avg"), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tower.transformer.resblocks[0].attn.in_proj_weight[64:] = 0
    tokens = torch.randn(1, 5, 32)
    torch.testing.assert_close(encode_image(tower, image, tokens), encode_image(tower, image), atol=1e-6, rtol=1e-6)


def test_gradient_checkpointing_gives_the_same():
    tower, image = make_vit(), torch.randn(2, 3, 32, 32)
    tokens = torch.randn(2, 4, 32, requires_grad=True)
    want = encode_image(tower, image, tokens)
    tower.set_grad_checkpointing()
    assert_same(encode_image(tower, image, tokens), want, [tokens])


def test_a_resnet_takes_no_tokens(make):
    with pytest.raises(ValueError, match="need open_clip's VisionTransformer as image tower, found ModifiedResNet"):
        encode_image(make.clip("rn").visual, torch.zeros(1, 3, 64, 64), torch.zeros(1, 4, 64))
