import subprocess
import sys

import open_clip
import pytest
from mocoop import clip
from mocoop.clip import architectures
from mocoop.clip.names import OPENAI, ParsedName, parse
from mocoop.clip.preprocess import OPENAI_MEAN, OPENAI_STD, openai_preprocess

SIZES = {
    "RN50": 224,
    "RN101": 224,
    "RN50x4": 288,
    "RN50x16": 384,
    "RN50x64": 448,
    "ViT-B/32": 224,
    "ViT-B/16": 224,
    "ViT-L/14": 224,
    "ViT-L/14@336px": 336,
}


def test_openai_names_have_their_published_sizes_and_open_clips_addresses():
    from open_clip.pretrained import get_pretrained_url

    assert list(OPENAI) == list(SIZES)
    for name, (arch, file, sha256) in OPENAI.items():
        assert clip.preprocess_of(name) == openai_preprocess(SIZES[name])
        assert get_pretrained_url(arch, "openai").endswith(f"/clip/models/{sha256}/{file}")


def test_checking_a_name_imports_neither_torch_nor_open_clip():
    code = (
        "import sys; from mocoop import clip; from mocoop.clip import DEMO_PREPROCESS\n"
        "[clip.check_name(name) for name in ('ViT-B/16', 'RN50', 'demo', 'ViT-L/14@336px')]\n"
        "assert clip.preprocess_of('demo') == DEMO_PREPROCESS\n"
        "try: clip.check_name('ViT-B16')\n"
        "except ValueError as error: print(error)\n"
        "print(sorted({'torch', 'open_clip', 'torchvision', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "did you mean ViT-B/16?" in done.stdout and done.stdout.endswith("\n[]\n")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("ViT-B16", "ViT-B/16"), ("vit_b32", "ViT-B/32"), ("rn50", "RN50"), ("RN-101", "RN101"), ("Demo", "demo")]
    + [("ViT-L/14@336", "ViT-L/14@336px or ViT-L/14"), ("ViT-B-16/", "ViT-B/16"), ("ViT-Bee-16/laion2b", "ViT-B-16")],
)
def test_unknown_name_gets_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"unknown backbone '{name}'; did you mean {nearest}") as error:
        clip.check_name(name)
    assert all(known in str(error.value) for known in OPENAI)


@pytest.mark.parametrize("name", ["", "zzzzzz", "a/b/c/d/e"])
def test_hopeless_name(name):
    with pytest.raises(ValueError, match=f"unknown backbone '{name}'"):
        clip.check_name(name)


@pytest.mark.parametrize("name", [None, 50, ["ViT-B/16"]])
def test_name_that_is_no_text(name):
    with pytest.raises(ValueError, match="got "):
        clip.check_name(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ViT-B-16-SigLIP/webli", "not causal"),
        ("ViT-L-14-CLIPA/datacomp1b", "not causal"),
        ("coca_ViT-L-14/laion2b_s13b_b90k", "CoCa"),
        ("xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k", "Hugging Face model 'xlm-roberta-base'"),
        ("ViT-H-14-worldwide/metaclip2_worldwide", "tokenizer 'facebook/xlm-v-base'"),
    ],
)
def test_unsuitable_architecture_says_why(name, reason):
    if name.partition("/")[0] not in open_clip.list_models():
        pytest.skip(f"the installed open_clip has no {name}")
    with pytest.raises(ValueError, match=f"{name}' cannot be used: .*{reason}.*causal text tower .* end-of-text token"):
        clip.check_name(name)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ({}, None),
        ({"pool_type": "eos", "eos_id": 49407}, None),
        ({"pool_type": "eos", "eos_id": 2}, "end-of-text token 2, CLIP's tokenizer writes 49407"),
        ({"pool_type": "eos"}, "end-of-text token None"),
        ({"pool_type": "last"}, "the last position"),
        ({"pool_type": "first"}, "the first position"),
        ({"no_causal_mask": True}, "not causal"),
        ({"embed_cls": True}, "extra class token"),
        ({"tokenizer_kwargs": {"clean": "canonicalize"}}, "tokenizer 'of its own'"),
        ({"block_type": "default", "qk_norm": False}, None),
        ({"qk_norm": True, "scale_fc": True}, "blocks of its text tower are not CLIP's (qk_norm, scale_fc)"),
        ({"vocab_size": 32000}, "32000 tokens, CLIP's tokenizer has 49408"),
    ],
)
def test_why_not(text, reason):
    found = architectures.why_unusable({"embed_dim": 8, "vision_cfg": {}, "text_cfg": text})
    assert found is reason is None or reason in found


def test_the_verdict_from_the_file_agrees_with_the_model():
    """Every architecture whose text tower is open_clip's own: built without memory, behind a small image tower."""
    import torch
    from mocoop.clip.backbones import _build

    verdicts = {True: 0, False: 0}
    for name in architectures.names():
        config = architectures.config(name)
        if "hf_model_name" in config["text_cfg"] or "multimodal_cfg" in config:
            assert architectures.why_unusable(config)
            continue
        config = {**config, "vision_cfg": {"layers": 1, "width": 64}, "text_cfg": {**config["text_cfg"], "layers": 1}}
        with torch.device("meta"):
            model = _build(config)
        causal = (model.text if config.get("custom_text") else model).attn_mask is not None
        pool = model.text.pool_type if config.get("custom_text") else model.text_pool_type
        usable = causal and pool == "argmax" and "hf_tokenizer_name" not in config["text_cfg"]
        assert usable == (architectures.why_unusable(config) is None), name
        verdicts[usable] += 1
    assert verdicts[True] > 50 and verdicts[False] > 20


@pytest.mark.parametrize("name", SIZES)
def test_shapes_of_openais_models_tell_their_architecture(name):
    """What is read from the shapes of each model equals open_clip's configuration of it."""
    import torch
    from mocoop.clip.backbones import _build

    config = architectures.config(OPENAI[name][0])
    with torch.device("meta"):
        found = architectures.infer(_build(config).state_dict())
    vision = {"head_width": 64, **config["vision_cfg"]}
    assert found["embed_dim"] == config["embed_dim"] and found["text_cfg"] == config["text_cfg"]
    assert {"head_width": 64, **found["vision_cfg"]} == vision and found["quick_gelu"]


def test_architecture_without_weights():
    with pytest.raises(ValueError, match="'ViT-B-16' is an architecture without weights: write ViT-B-16/TAG"):
        clip.check_name("ViT-B-16")


def test_tags_of_open_clip():
    assert clip.preprocess_of("ViT-B-16/laion2b_s34b_b88k") == openai_preprocess(224)
    assert clip.preprocess_of("ViT-B-16-plus-240/laion400m_e32").size == 240
    with pytest.raises(
        ValueError, match="no weights 'laion2b_s34b' for ViT-B-16; did you mean ViT-B-16/laion2b_s34b_b88k"
    ):
        clip.check_name("ViT-B-16/laion2b_s34b")


def test_tag_brings_its_own_statistics():
    """MobileCLIP-B was trained without normalisation and with bilinear resizing."""
    found = clip.preprocess_of("MobileCLIP-B/datacompdr")
    assert (found.size, found.mean, found.std, found.interpolation) == (224, (0.0,) * 3, (1.0,) * 3, "bilinear")


def test_quickgelu_weights_do_not_go_into_gelu():
    clip.check_name("ViT-B-32-quickgelu/metaclip_400m")
    with pytest.raises(ValueError, match="trained with QuickGELU, .* write ViT-B-32-quickgelu/metaclip_400m"):
        clip.check_name("ViT-B-32/metaclip_400m")


@pytest.mark.parametrize("name", ["ViT-B-16/openai", "ViT-B-16-quickgelu/openai"])
def test_open_clips_openai_tag_is_openais_name(name):
    assert parse(name) == ParsedName(openai="ViT-B/16", arch="ViT-B-16")


def test_local_checkpoints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("a.pt", "b@home.pt", "noend"):
        (tmp_path / file).write_bytes(b"")
    assert parse("a.pt").path.name == "a.pt" and parse(f"{tmp_path}/b@home.pt").path.name == "b@home.pt"
    assert parse("noend").path.name == "noend"
    assert clip.preprocess_of("a.pt@ViT-L-14-336-quickgelu") == openai_preprocess(336)
    assert clip.preprocess_of("a.pt@ViT-L/14@336px") == openai_preprocess(336)
    assert clip.preprocess_of("b@home.pt@ViT-B-16/datacomp_xl_s13b_b90k") == openai_preprocess(224)
    assert clip.preprocess_of("a.pt@MobileCLIP-B/datacompdr").std == (1.0, 1.0, 1.0)
    with pytest.raises(FileNotFoundError, match=f"no weights file at {tmp_path}/no.pt"):
        clip.check_name("no.pt@ViT-B-16")
    with pytest.raises(FileNotFoundError, match=f"no weights file at {tmp_path}/no/no.safetensors"):
        clip.check_name("no/no.safetensors")
    with pytest.raises(
        ValueError, match="unknown architecture 'ViTB16' in the backbone 'a.pt@ViTB16'; did you mean ViT-B/16"
    ):
        clip.check_name("a.pt@ViTB16")
    with pytest.raises(ValueError, match="cannot be used: .*not causal"):
        clip.check_name("a.pt@ViT-B-16-SigLIP")


def test_available_models_are_all_usable():
    models = clip.available_models()
    assert models[:11] == [*OPENAI, "demo", "miniature"]
    assert len(models) == len(set(models)) > 90
    assert "ViT-B-16/laion2b_s34b_b88k" in models and "ViT-B-16/openai" not in models
    for name in models:
        found = clip.preprocess_of(name)
        assert found.size >= 48 and len(found.mean) == 3
    assert not any("SigLIP" in name or "coca" in name or "roberta" in name for name in models)


def test_statistics():
    assert (openai_preprocess(7).mean, openai_preprocess(7).std) == (OPENAI_MEAN, OPENAI_STD)
