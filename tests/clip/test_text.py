"""The fast text encoder against open_clip's own tower on the full 77 positions, forward and gradient."""

import pytest
import torch
from mocoop.clip.layout import context_slot, make_layout
from mocoop.clip.text import TextEncoder, encode_chunked, masked_attention

SOT, EOT = 49406, 49407
TEMPLATES = ["a photo of a {}.", "{} texture.", "a {} in a video game.", "itap of the {}."]
NAMES = ["cat", "forest", "herbaceous vegetation land", "1955 chevrolet bel air coupe", "sea or lake"]


def plain_features(model, sequences, context):
    """open_clip's tower on sequences padded to 77, one prompt at a time, context vectors written over embeddings."""
    features = []
    for prompt in sequences:
        x = torch.zeros(77, model.token_embedding.weight.shape[1])
        rows = [context[-e - 1] if e < 0 else model.token_embedding.weight[e] for e in prompt]
        x = torch.cat([torch.stack(rows), x[len(rows) :] + model.token_embedding.weight[0]])
        x = model.transformer((x + model.positional_embedding)[None], attn_mask=model.attn_mask)
        features.append(model.ln_final(x)[0, len(prompt) - 1] @ model.text_projection)
    return torch.stack(features)


def token_rows(tokenizer, template):
    rows = tokenizer([template.format(n) for n in NAMES])
    return [r[: r.argmax() + 1].tolist() for r in rows]


def soft_sequences(tokenizer):
    """Each template's first two and (where it has words after the name) last words replaced by context vectors."""
    experts, first = [], 0
    for template in TEMPLATES:
        rows = token_rows(tokenizer, template)
        before = len(tokenizer.encode(template.split("{}")[0].strip()))
        after = len(tokenizer.encode(template.split("{}")[1].strip())) - 1
        slots = [context_slot(first + i) for i in range(before + after)]
        for r in rows:
            r[1 : 1 + before] = slots[:before]
            if after:
                r[-2 - after : -2] = slots[before:]
        first += before + after
        experts.append(rows)
    return experts, first


def test_tokens_alone_equal_encode_text(tiny_clip, tokenizer):
    encoder = TextEncoder(tiny_clip)
    layout = make_layout([token_rows(tokenizer, t) for t in TEMPLATES])
    want = torch.stack([tiny_clip.encode_text(tokenizer([t.format(n) for n in NAMES])) for t in TEMPLATES])
    torch.testing.assert_close(encoder(layout), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_context_vectors_forward_and_gradient(tiny_clip, tokenizer, classes):
    encoder = TextEncoder(tiny_clip)
    experts, count = soft_sequences(tokenizer)
    experts = [prompts[-classes:] for prompts in experts]
    torch.manual_seed(1)
    weight = torch.randn(len(experts), classes, 24)
    fast = torch.randn(count, 32, requires_grad=True)
    slow = fast.detach().clone().requires_grad_()
    out = encoder(make_layout(experts), fast)
    want = torch.stack([plain_features(tiny_clip, prompts, slow) for prompts in experts])
    torch.testing.assert_close(out, want, atol=1e-5, rtol=1e-5)
    (out * weight).sum().backward()
    (want * weight).sum().backward()
    assert slow.grad.abs().min() > 0  # every vector matters
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-5, rtol=1e-5)


def test_attention_in_bfloat16_on_a_cpu_has_float32s_gradient():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 4).bfloat16().requires_grad_() for _ in range(3))
    mask = torch.zeros(2, 1, 5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = masked_attention(q, k, v, mask)
    exact = [x.detach().float().requires_grad_() for x in (q, k, v)]
    want = ((exact[0] @ exact[1].mT / 2) + mask).softmax(dim=-1) @ exact[2]
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), want, atol=2**-8, rtol=2**-8)
    weight = torch.randn(2, 3, 5, 4).bfloat16()
    out.backward(weight)
    want.backward(weight.float())
    for x, y in zip((q, k, v), exact, strict=True):  # rounded once, to bfloat16's eight bits
        torch.testing.assert_close(x.grad, y.grad.bfloat16(), atol=2**-8, rtol=2**-7)
    with torch.no_grad():
        torch.testing.assert_close(masked_attention(q, k, v, mask.bfloat16()).float(), want, atol=2**-6, rtol=2**-6)


def test_class_specific_vectors(tiny_clip):
    """Every class with vectors of its own: nothing but the start token is shared."""
    encoder = TextEncoder(tiny_clip)
    prompts = [[SOT, context_slot(2 * c), context_slot(2 * c + 1), 320 + c, EOT] for c in range(3)]
    layout = make_layout([prompts])
    assert layout.front_lengths.tolist() == [1]
    context = torch.randn(6, 32)
    torch.testing.assert_close(
        encoder(layout, context)[0], plain_features(tiny_clip, prompts, context), atol=1e-5, rtol=1e-5
    )


def test_chunks_give_the_same_features_and_gradient(tiny_clip, tokenizer):
    encoder = TextEncoder(tiny_clip)
    experts, count = soft_sequences(tokenizer)
    whole = torch.randn(count, 32, requires_grad=True)
    parts = whole.detach().clone().requires_grad_()
    out = encoder(make_layout(experts), whole)
    layouts = [make_layout([p[i : i + 2] for p in experts]) for i in range(0, len(NAMES), 2)]
    chunked = encode_chunked(encoder, layouts, parts)
    torch.testing.assert_close(chunked, out, atol=1e-5, rtol=1e-5)
    out.pow(2).sum().backward()
    chunked.pow(2).sum().backward()
    torch.testing.assert_close(parts.grad, whole.grad, atol=1e-5, rtol=1e-5)


def test_gelu_layer_scale_and_linear_projection(tokenizer):
    """Variants of open_clip's tower: plain GELU, LayerScale, a projection with bias."""
    from open_clip.transformer import TextTransformer

    torch.manual_seed(3)
    tower = TextTransformer(width=32, heads=4, layers=2, output_dim=16, ls_init_value=0.5, proj_bias=True).eval()
    torch.nn.init.normal_(tower.text_projection.bias)
    with torch.no_grad():
        got = TextEncoder(tower)(make_layout([token_rows(tokenizer, t) for t in TEMPLATES]))
        want = torch.stack([tower(tokenizer([t.format(n) for n in NAMES])) for t in TEMPLATES])
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_without_gradient_nothing_counts_as_tracked():
    """A view of a parameter does even under no_grad; FLOP counters then look for a gradient function."""
    seen = []

    def encoder(layout, context):
        seen.append(context.requires_grad)
        return context

    context = torch.nn.Parameter(torch.zeros(1, 2, 3))
    with torch.no_grad():
        encode_chunked(encoder, [None], context.flatten(0, 1))
    encode_chunked(encoder, [None], context.flatten(0, 1))
    assert seen == [False, True]
