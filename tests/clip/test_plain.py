"""Towers with hooks or other layers than open_clip's: a change takes effect or is refused, it never vanishes."""

import types

import pytest
import torch
from mocoop.clip.image import encode_image
from mocoop.clip.layout import context_slot, make_layout
from mocoop.clip.plain import is_plain_transformer
from mocoop.clip.text import TextEncoder, encode_chunked
from open_clip.transformer import ResidualAttentionBlock, TextTransformer, Transformer
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

TEXTS = ["a photo of a cat.", "sea or lake.", "1955 chevrolet bel air coupe."]


class LoRA(nn.Module):
    """As peft puts one around a layer: its weight looks like the layer's own."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.down, self.up = nn.Linear(inner.in_features, 2, bias=False), nn.Linear(2, inner.out_features, bias=False)

    @property
    def weight(self):
        return self.inner.weight

    @property
    def bias(self):
        return self.inner.bias

    def forward(self, x):
        return self.inner(x) + self.up(self.down(x))


class LoRAAttention(nn.Module):
    """Around a whole attention."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.lora = inner, LoRA(nn.Linear(inner.embed_dim, inner.embed_dim))

    def forward(self, *inputs, **options):
        return self.lora(self.inner(*inputs, **options)[0]), None


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def changed(x):
    """Not by a factor or a constant, which the next LayerNorm would take out again."""
    return x * torch.linspace(0.5, 1.5, x.shape[-1])


def hook(name):
    return lambda t: t.get_submodule(name).register_forward_hook(lambda module, inputs, output: changed(output))


def pre_hook(name):
    return lambda t: t.get_submodule(name).register_forward_pre_hook(lambda module, inputs: (changed(inputs[0]),))


def replace(name, make):
    def change(tower):
        parent, _, child = name.rpartition(".")
        parent = tower.get_submodule(parent)
        setattr(parent, child, make(getattr(parent, child)))

    return change


def own_forward(module):
    """A forward put in place of a module's own, as acceleration packages do."""
    forward = module.forward
    module.forward = lambda *inputs, **options: changed(forward(*inputs, **options))
    return module


def own_attention(block):
    attention = block.attention
    block.attention = types.MethodType(lambda self, *inputs, **options: 2 * attention(*inputs, **options), block)
    return block


def adapter_in_mlp(mlp):
    mlp.add_module("adapter", nn.Linear(mlp.c_proj.out_features, mlp.c_proj.out_features))
    return mlp


def parametrized(module, name):
    parametrize.register_parametrization(module, name, Doubled())
    return module


class LongerBlock(ResidualAttentionBlock):
    def forward(self, *inputs, **options):
        return changed(super().forward(*inputs, **options))


def of_class(module, kind):
    module.__class__ = kind
    return module


BLOCK = "transformer.resblocks.1"
IN_BLOCKS = {
    "hook on a block": hook(BLOCK),
    "pre-hook on a norm": pre_hook(f"{BLOCK}.ln_1"),
    "hook on the activation": hook(f"{BLOCK}.mlp.gelu"),
    "hook on the blocks as a whole": hook("transformer"),
    "forward of a block": replace(BLOCK, own_forward),
    "forward of a linear layer": replace(f"{BLOCK}.mlp.c_proj", own_forward),
    "attention method of a block": replace(BLOCK, own_attention),
    "other class of block": replace(BLOCK, lambda block: of_class(block, LongerBlock)),
    "LoRA in the MLP": replace(f"{BLOCK}.mlp.c_fc", LoRA),
    "adapter in the MLP": replace(f"{BLOCK}.mlp", adapter_in_mlp),
    "other MLP": replace(f"{BLOCK}.mlp", lambda mlp: nn.Linear(mlp.c_fc.in_features, mlp.c_proj.out_features)),
    "other activation": replace(f"{BLOCK}.mlp.gelu", lambda gelu: nn.Tanh()),
    "LoRA around the attention": replace(f"{BLOCK}.attn", LoRAAttention),
    "parametrized MLP": replace(f"{BLOCK}.mlp.c_fc", lambda linear: parametrized(linear, "weight")),
    "parametrized attention": replace(f"{BLOCK}.attn", lambda attn: parametrized(attn, "in_proj_weight")),
    "parametrized output": replace(f"{BLOCK}.attn.out_proj", lambda linear: parametrized(linear, "weight")),
    "weight norm": replace(f"{BLOCK}.mlp.c_fc", lambda m: own_scale(parametrizations.weight_norm(m))),
    "pruned": lambda t: prune.l1_unstructured(t.get_submodule(f"{BLOCK}.mlp.c_fc"), "weight", 0.8),
    "other norm": replace(f"{BLOCK}.ln_2", lambda norm: nn.Identity()),
}
IN_SINGLE_BLOCKS = {name: change for name, change in IN_BLOCKS.items() if "as a whole" not in name}
IN_TEXT = IN_BLOCKS | {
    "hook on the token embedding": hook("token_embedding"),
    "hook on the last norm": hook("ln_final"),
    "other last norm": replace("ln_final", lambda norm: nn.Identity()),
}
IN_IMAGE = IN_BLOCKS | {
    "hook on the patch embedding": hook("conv1"),
    "other patch embedding": replace("conv1", lambda conv: nn.Sequential(conv, nn.Tanh())),
    "hook on the first norm": hook("ln_pre"),
}


def own_scale(linear):
    with torch.no_grad():
        linear.parametrizations.weight.original0.mul_(3)
    return linear


def padded(tokenizer):
    """Prompts with two context vectors before the words and one behind: their layout, ids with gaps, places, slots."""
    rows = [row[: row.argmax() + 1].tolist() for row in tokenizer(TEXTS)]
    prompts = [[r[0], context_slot(0), context_slot(1), *r[1:-1], context_slot(2), r[-1]] for r in rows]
    entries = torch.tensor([prompt + [0] * (77 - len(prompt)) for prompt in prompts])
    return make_layout([prompts]), entries, torch.tensor([len(prompt) - 1 for prompt in prompts])


def as_open_clip(tower, tokenizer, context):
    """The same prompts as open_clip would run them."""
    _, entries, ends = padded(tokenizer)
    x = tower.token_embedding(entries.clamp(min=0))
    x = torch.where(entries[..., None] < 0, context[(-entries - 1).clamp(min=0)], x)
    x = tower.transformer(x + tower.positional_embedding, attn_mask=tower.attn_mask)
    x = tower.ln_final(x)[torch.arange(len(x)), ends]
    return tower.text_projection(x) if isinstance(tower.text_projection, nn.Module) else x @ tower.text_projection


@pytest.mark.parametrize("change", IN_TEXT.values(), ids=IN_TEXT)
def test_a_change_to_the_text_tower_takes_effect(change, tiny_backbone, tokenizer):
    """Also if it comes after the encoder was made and used; forward and gradient."""
    encoder, tower, (layout, *_) = tiny_backbone.text_encoder, tiny_backbone.text, padded(tokenizer)
    context = torch.randn(3, 32, requires_grad=True)
    before = encoder(layout, context)
    torch.testing.assert_close(before[0], as_open_clip(tower, tokenizer, context), atol=1e-5, rtol=1e-5)
    change(tower)
    after, want = encoder(layout, context), as_open_clip(tower, tokenizer, context)
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after[0], want, atol=1e-5, rtol=1e-5)
    chunked = encode_chunked(encoder, [layout], context, chunked=True)
    weight = torch.randn_like(want)
    grads = [torch.autograd.grad((out * weight).sum(), context)[0] for out in (after[0], want, chunked[0])]
    for got in (grads[0], grads[2]):
        torch.testing.assert_close(got, grads[1], atol=1e-5 * float(grads[1].abs().max()), rtol=1e-4)


@pytest.mark.parametrize("change", IN_IMAGE.values(), ids=IN_IMAGE)
def test_a_change_to_the_image_tower_takes_effect(change, tiny_backbone):
    tower, image = tiny_backbone.visual, torch.randn(2, 3, 32, 32)
    before = encode_image(tower, image)
    change(tower)
    after = encode_image(tower, image)
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after, tower(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", IN_SINGLE_BLOCKS.values(), ids=IN_SINGLE_BLOCKS)
def test_deep_prompts_meet_a_changed_tower(change, tiny_backbone, tokenizer):
    """Against open_clip's forward, in which hooks put the prompts of each layer in their rows."""
    encoder, (layout, entries, _) = tiny_backbone.text_encoder, padded(tokenizer)
    context, tokens, image = torch.randn(3, 3, 32), torch.randn(2, 4, 32), torch.randn(2, 3, 32, 32)
    change(tiny_backbone.text), change(tiny_backbone.visual)
    got_text, got_image = encoder(layout, context), encode_image(tiny_backbone.visual, image, tokens)

    def write(j):
        def before(block, inputs):
            return (torch.where(entries[..., None] < 0, context[j][(-entries - 1).clamp(min=0)], inputs[0]),)

        return before

    def put_behind(j):
        own = tiny_backbone.visual.ln_pre(tokens[0]) if j == 0 else tokens[j]
        return lambda block, inputs: (torch.cat([inputs[0][:, :5], own.expand(len(image), -1, -1)], dim=1),)

    for j in (1, 2):
        tiny_backbone.text.transformer.resblocks[j].register_forward_pre_hook(write(j), prepend=True)
    for j in (0, 1):
        tiny_backbone.visual.transformer.resblocks[j].register_forward_pre_hook(put_behind(j), prepend=True)
    torch.testing.assert_close(
        got_text[0], as_open_clip(tiny_backbone.text, tokenizer, context[0]), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(got_image, tiny_backbone.visual(image), atol=1e-5, rtol=1e-5)


def test_a_hook_that_only_looks_sees_what_open_clip_shows_it(tiny_backbone, tokenizer):
    seen, (layout, *_) = [], padded(tokenizer)
    block = tiny_backbone.text.transformer.resblocks[0]
    handle = block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    context = torch.randn(3, 32, requires_grad=True)
    tiny_backbone.text_encoder(layout, context)
    as_open_clip(tiny_backbone.text, tokenizer, context)
    torch.testing.assert_close(*seen, atol=1e-5, rtol=1e-5)
    handle.remove()
    block.register_full_backward_hook(lambda module, grad_in, grad_out: seen.append(grad_out[0]))
    tiny_backbone.text_encoder(layout, context).sum().backward()
    assert len(seen) == 3 and seen[-1].shape == (3, 77, 32)


def test_a_lora_around_the_projection(tokenizer):
    torch.manual_seed(3)
    tower = TextTransformer(width=32, heads=4, layers=2, output_dim=16, proj_bias=True).eval()
    encoder, (layout, *_), context = TextEncoder(tower), padded(tokenizer), torch.randn(3, 32)
    tower.text_projection = LoRA(nn.Linear(32, 16))
    tower.text_projection.out_features = 16
    torch.testing.assert_close(
        encoder(layout, context)[0], as_open_clip(tower, tokenizer, context), atol=1e-5, rtol=1e-5
    )
    tower.text_projection = hooked = nn.Linear(32, 16)
    hooked.register_forward_hook(lambda module, inputs, output: 3 * output)
    torch.testing.assert_close(
        encoder(layout, context)[0], as_open_clip(tower, tokenizer, context), atol=1e-5, rtol=1e-5
    )


def test_a_patched_class_of_blocks_takes_effect(tiny_backbone, tokenizer, monkeypatch):
    layout, *_ = padded(tokenizer)
    context, forward = torch.randn(3, 32), ResidualAttentionBlock.forward
    monkeypatch.setattr(
        ResidualAttentionBlock, "forward", lambda self, *x, **options: changed(forward(self, *x, **options))
    )
    assert not is_plain_transformer(tiny_backbone.visual.transformer)
    want = as_open_clip(tiny_backbone.text, tokenizer, context)
    torch.testing.assert_close(tiny_backbone.text_encoder(layout, context)[0], want, atol=1e-5, rtol=1e-5)


LOST = {
    "hook on the attention's output": (
        hook(f"{BLOCK}.attn.out_proj"),
        "on resblocks.1.attn.out_proj would.* put it on resblocks.1.attn as",
    ),
    "LoRA in the attention": (
        replace(f"{BLOCK}.attn.out_proj", LoRA),
        "an adapter .* on resblocks.1.attn.out_proj would be left out",
    ),
}


@pytest.mark.parametrize(("change", "message"), LOST.values(), ids=LOST)
def test_what_torch_would_leave_out_is_refused(change, message, tiny_backbone, tokenizer):
    layout, *_ = padded(tokenizer)
    change(tiny_backbone.text), change(tiny_backbone.visual)
    with pytest.raises(ValueError, match=message):
        tiny_backbone.text_encoder(layout, torch.randn(3, 32))
    for tokens in (None, torch.randn(1, 4, 32)):
        with pytest.raises(ValueError, match=message):
            encode_image(tiny_backbone.visual, torch.randn(1, 3, 32, 32), tokens)


def test_a_change_to_what_is_not_called_is_refused(tiny_backbone, tokenizer):
    """The towers as a whole, and with deep prompts the stack of blocks."""
    (layout, *_), image = padded(tokenizer), torch.randn(1, 3, 32, 32)
    encoder, model = tiny_backbone.text_encoder, tiny_backbone.model
    handles = [m.register_forward_hook(lambda module, inputs, output: output) for m in (model, model.visual)]
    with pytest.raises(ValueError, match="on CLIP would be left out: .* put it on layers in it"):
        encoder(layout, torch.randn(3, 32))
    assert torch.equal(encode_image(model.visual, image), model.visual(image))
    with pytest.raises(ValueError, match="on VisionTransformer would be left out"):
        encode_image(model.visual, image, torch.randn(1, 4, 32))
    for handle in handles:
        handle.remove()
    model.encode_text = lambda text: text
    with pytest.raises(ValueError, match="another forward on CLIP"):
        encoder(layout, torch.randn(3, 32))
    del model.encode_text
    for transformer in (model.transformer, model.visual.transformer):
        of_class(transformer, type("Mine", (Transformer,), {"forward": lambda self, x, attn_mask=None: x}))
    assert encoder(layout, torch.randn(3, 32)).shape == (1, 3, 24)
    with pytest.raises(ValueError, match="on the stack of blocks would be left out: .* put it on the blocks"):
        encoder(layout, torch.randn(2, 3, 32))
    with pytest.raises(ValueError, match="on the stack of blocks"):
        encode_image(model.visual, image, torch.randn(1, 4, 32))


def test_plain_towers_are_computed_without_a_call(tiny_backbone, tokenizer, monkeypatch):
    """Or nothing here would be gained."""

    def called(*_, **__):
        raise AssertionError("called")

    monkeypatch.setattr(TextEncoder, "_call_modules", called)
    monkeypatch.setattr("mocoop.clip.image.call_block", called)
    layout, *_ = padded(tokenizer)
    tiny_backbone.text_encoder(layout, torch.randn(3, 3, 32))
    encode_image(tiny_backbone.visual, torch.randn(1, 3, 32, 32), torch.randn(2, 4, 32))
