import copy
import json

import open_clip
import pytest
import torch
from mocoop import clip
from mocoop.clip import backbones, download, names
from mocoop.clip.download import DownloadError, hash_of
from mocoop.clip.preprocess import Preprocess, openai_preprocess
from mocoop.clip.weights import WeightsError
from safetensors.torch import save_file

TEXTS = ["a photo of a cat.", "a centered satellite photo of Annual Crop Land.", "x"]


def save(make, model, kind, form, path):
    state = make.marked(model, make.sizes[kind])
    if form == "torchscript":
        make.torchscript(copy.deepcopy(model), make.sizes[kind], path)
    elif form == "safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(state, path)


@torch.no_grad()
def features(model, size):
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    return model.encode_image(images), model.encode_text(open_clip.get_tokenizer("ViT-B-16")(TEXTS))


def assert_same_features(model, expected, size):
    for ours, theirs in zip(features(model, size), features(expected, size), strict=True):
        assert theirs.std() > 1e-3  # random weights that say something
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.fixture
def tiny_arch(make, monkeypatch):
    """Names "tiny-vit" (GELU), its "-quickgelu" twin and "tiny-rn", as open_clip.add_model_config would add them."""
    for name in ("tiny-vit", "tiny-vit-quickgelu", "tiny-rn"):
        config = make.config(name.split("-")[1], name.endswith("quickgelu"))
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, json.loads(json.dumps(config)))


@pytest.fixture
def tiny_openai(tiny_arch, make, monkeypatch, tmp_path, server):
    """An OpenAI-like name "Tiny/16" whose weights a loopback server has. Returns the model behind it."""
    model = make.clip("vit")
    save(make, model, "vit", "torchscript", tmp_path / "published.pt")
    server.body = (tmp_path / "published.pt").read_bytes()
    monkeypatch.setitem(names.OPENAI, "Tiny/16", ("tiny-vit", "Tiny-16.pt", hash_of(tmp_path / "published.pt")))
    monkeypatch.setattr(backbones, "OPENAI_URL", server.url)
    return model


@pytest.mark.parametrize("form", ["state_dict", "torchscript", "safetensors"])
@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_openai_layouts_load_and_equal_open_clips_model(make, tmp_path, kind, form):
    model, size = make.clip(kind), make.sizes[kind]
    save(make, model, kind, form, tmp_path / "a.pt")
    backbone = clip.load_backbone(str(tmp_path / "a.pt"))
    assert_same_features(backbone.model, model, size)
    assert backbone.preprocess == openai_preprocess(size)
    channels_last = backbone.visual.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert channels_last == (kind == "rn")
    assert not backbone.model.training and not any(p.requires_grad for p in backbone.model.parameters())
    assert backbone.text is backbone.model and backbone.visual is backbone.model.visual
    assert backbone.logit_scale is backbone.model.logit_scale
    assert torch.equal(backbone.tokenizer(TEXTS), open_clip.get_tokenizer("ViT-B-16")(TEXTS))


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_half_archive_equals_open_clips_reading_of_it(make, tmp_path, kind):
    """OpenAI's weights are half precision, LayerNorms aside; open_clip builds the reference from the same archive."""
    from open_clip.model import build_model_from_openai_state_dict, convert_weights_to_fp16

    model = make.clip(kind)
    convert_weights_to_fp16(model)
    state = make.marked(model, make.sizes[kind])
    torch.save(state, tmp_path / "a.pt")
    theirs = build_model_from_openai_state_dict(dict(state), cast_dtype=None).float()
    ours = clip.load_backbone(str(tmp_path / "a.pt")).model
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    assert_same_features(ours, theirs, make.sizes[kind])


@pytest.mark.parametrize("arch", ["tiny-vit", "tiny-vit-quickgelu"])
def test_named_architecture_decides_the_activation(make, tiny_arch, tmp_path, arch):
    model = make.clip("vit", quick_gelu=arch.endswith("quickgelu"))
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    assert_same_features(clip.load_backbone(f"{tmp_path}/a.safetensors@{arch}").model, model, 48)


def test_activations_do_differ(make):
    """The test above would pass with the wrong activation otherwise."""
    ours, theirs = (features(make.clip("vit", quick), 48)[0] for quick in (True, False))
    assert (ours - theirs).abs().max() > 1e-3


def test_weights_that_do_not_tell_their_activation_need_a_name(make, tiny_arch, tmp_path):
    torch.save(make.clip("vit").state_dict(), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=f"say which architecture {tmp_path}/a.pt is: {tmp_path}/a.pt@ARCH"):
        clip.load_backbone(f"{tmp_path}/a.pt")


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_size_of_images_is_read_from_a_file_that_names_no_architecture(make, tmp_path, kind):
    save(make, make.clip(kind), kind, "torchscript", tmp_path / "a.pt")
    assert clip.preprocess_of(str(tmp_path / "a.pt")) == openai_preprocess(make.sizes[kind])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"hello", "a.pt is not a checkpoint: .*5 bytes begin with b'hello'"),
        (b"", "a.pt is not a checkpoint: .*0 bytes"),
        (b"\x80\x02", "a.pt .2 bytes. is truncated or damaged"),
        ({"a": torch.ones(1)}, "say which architecture .*a.pt is"),
        ({"a": 1}, "a.pt is not a state dict"),
    ],
)
def test_file_that_is_no_weights_is_named_before_anything_is_loaded(tmp_path, content, reason, record):
    path = tmp_path / "a.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=reason):
        clip.check_name(str(path))
    record("weights", "file that is no checkpoint as the backbone's name", "refused by name")


def test_openai_archive_as_gelu_is_refused(make, tiny_arch, tmp_path):
    torch.save(make.marked(make.clip("vit"), 48), tmp_path / "a.pt")
    with pytest.raises(
        ValueError, match=r"QuickGELU, but the architecture tiny-vit has GELU: write .*a.pt@tiny-vit-quick"
    ):
        clip.load_backbone(f"{tmp_path}/a.pt@tiny-vit")
    assert clip.load_backbone(f"{tmp_path}/a.pt@tiny-vit-quickgelu").preprocess.size == 48


def test_other_architecture_is_named_with_what_the_file_is(make, tiny_arch, tmp_path):
    torch.save(make.clip("vit").state_dict(), tmp_path / "a.pt")
    with pytest.raises(WeightsError) as error:
        clip.load_backbone(f"{tmp_path}/a.pt@tiny-rn")
    text = str(error.value)
    assert (
        f"{tmp_path}/a.pt as tiny-rn (its shapes say: image tower of 48 pixels, width 128, layers 2, patch 16; " in text
    )
    assert "joint width 96)" in text and "missing: visual.conv1" not in text
    assert "unexpected: visual.class_embedding, visual.positional_embedding, visual.proj" in text
    assert "1 of another shape: visual.conv1.weight [128, 3, 16, 16] (expected [8, 3, 3, 3])" in text


def test_half_a_model_is_refused(make, tiny_arch, tmp_path):
    state = make.clip("vit").state_dict()
    del state["ln_final.bias"], state["visual.ln_pre.weight"]
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="2 missing: .*visual.ln_pre.weight.*ln_final.bias"):
        clip.load_backbone(f"{tmp_path}/a.pt@tiny-vit")


def test_custom_text_model_takes_plain_weights(make, tiny_arch, tmp_path, monkeypatch):
    custom = {**make.config("vit", False), "custom_text": True}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-custom", custom)
    model = make.clip("vit", quick_gelu=False)
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}, "epoch": 1}, tmp_path / "a.pt")
    backbone = clip.load_backbone(f"{tmp_path}/a.pt@tiny-custom")
    assert isinstance(backbone.model, open_clip.CustomTextCLIP) and backbone.text is backbone.model.text
    assert_same_features(backbone.model, model, 48)


def test_loading_leaves_the_random_numbers_alone(make, tmp_path):
    torch.save(make.marked(make.clip("vit"), 48), tmp_path / "a.pt")
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    clip.load_backbone(str(tmp_path / "a.pt"))
    assert torch.equal(torch.rand(3), expected)


def test_load_has_openais_shape(make, tmp_path):
    from PIL import Image

    torch.save(make.marked(make.clip("vit"), 48), tmp_path / "a.pt")
    model, transform = clip.load(str(tmp_path / "a.pt"), device="cpu")
    image = transform(Image.new("L", (60, 90), 7)).unsqueeze(0)
    assert image.shape == (1, 3, 48, 48)
    assert model.encode_image(image).shape == (1, 96) and model.encode_text(clip.tokenize(["a", "b"])).shape == (2, 96)


def test_openai_name_is_downloaded_once_over_a_broken_line(make, tiny_openai, server, tmp_path):
    server.cuts = [1_100_000, 1_100_000]
    backbone = clip.load_backbone("Tiny/16", download_root=str(tmp_path / "cache"))
    assert server.asked == [None, "bytes=1048576-", "bytes=2097152-"]  # gdown writes half a MiB at a time
    assert_same_features(backbone.model, tiny_openai, 48)
    clip.load_backbone("Tiny/16", download_root=str(tmp_path / "cache"))
    assert len(server.asked) == 3


def test_checkpoint_in_openais_cache_is_used_without_network(tiny_openai, server, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    cache = tmp_path / "home" / ".cache" / "clip"
    cache.mkdir(parents=True)
    (cache / "Tiny-16.pt").write_bytes(server.body)
    assert_same_features(clip.load_backbone("Tiny/16").model, tiny_openai, 48)
    assert server.asked == []


def test_wrong_file_in_openais_cache_is_named_and_kept(tiny_openai, server, tmp_path):
    (tmp_path / "Tiny-16.pt").write_bytes(server.body[:-1])
    with pytest.warns(UserWarning, match=f"{tmp_path}/Tiny-16.pt is there, but its SHA-256 is .*left alone"):
        clip.load_backbone("Tiny/16", download_root=str(tmp_path))
    assert (tmp_path / "Tiny-16.pt").read_bytes() == server.body[:-1]


def test_no_network_says_what_where_and_what_to_do(tiny_openai, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "RETRIES", 0)
    monkeypatch.setattr(backbones, "OPENAI_URL", "http://127.0.0.1:1")
    sha256 = names.OPENAI["Tiny/16"][2]
    with pytest.raises(DownloadError) as error:
        clip.load_backbone("Tiny/16", download_root=str(tmp_path / "cache"))
    lines = str(error.value).splitlines()
    assert lines[0].startswith("cannot get Tiny-16.pt: no connection")
    assert lines[1] == f"  wanted: http://127.0.0.1:1/{sha256}/Tiny-16.pt"
    assert lines[2] == f"  looked in: {tmp_path}/cache"
    assert f"put it at {tmp_path}/cache/Tiny-16.pt (SHA-256 {sha256})" in lines[3]
    assert lines[3].endswith("MODEL.BACKBONE.NAME FILE@Tiny/16")


def tag(**other):
    return {
        "t1": {"hf_hub": "org/repo/", "mean": (0.1, 0.2, 0.3), "std": (1, 1, 1), "interpolation": "bilinear"} | other
    }


def test_tag_of_open_clip_comes_through_its_hub(make, tiny_arch, tmp_path, monkeypatch):
    model, asked = make.clip("vit", quick_gelu=False), []
    save_file(model.state_dict(), tmp_path / "hub.safetensors")
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-vit", tag())
    monkeypatch.setattr(
        open_clip.pretrained,
        "download_pretrained",
        lambda record, cache_dir: asked.append((record["hf_hub"], cache_dir)) or str(tmp_path / "hub.safetensors"),
    )
    backbone = clip.load_backbone("tiny-vit/t1", download_root="somewhere")
    assert asked == [("org/repo/", "somewhere")]
    assert backbone.preprocess == Preprocess(48, (0.1, 0.2, 0.3), (1, 1, 1), "bilinear")
    assert_same_features(backbone.model, model, 48)
    by_hand = clip.load_backbone(f"{tmp_path}/hub.safetensors@tiny-vit/t1")
    assert by_hand.preprocess == backbone.preprocess and len(asked) == 1


@pytest.mark.parametrize(
    ("hub", "file"),
    [
        ("org/repo/", "open_clip_model.safetensors"),
        ("org/repo/", "open_clip_pytorch_model.bin"),
        ("org/repo/w.pth", "w.safetensors"),
        ("org/repo/w.pt", "w.pt"),
    ],
)
def test_hugging_faces_cache_is_looked_at_first(make, tiny_arch, tmp_path, monkeypatch, hub, file):
    repository = tmp_path / "models--org--repo"
    for folder in ("refs", "snapshots/abc"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    model = make.clip("vit", quick_gelu=False)
    save_file(model.state_dict(), repository / "snapshots" / "abc" / file)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-vit", tag(hf_hub=hub))
    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", None)
    assert_same_features(clip.load_backbone("tiny-vit/t1", download_root=str(tmp_path)).model, model, 48)


def test_hub_out_of_reach(tiny_arch, tmp_path, monkeypatch):
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-vit", tag())

    def fail(*args, **kwargs):
        raise RuntimeError("Network is unreachable\nlong story")

    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", fail)
    with pytest.raises(DownloadError) as error:
        clip.load_backbone("tiny-vit/t1", download_root=str(tmp_path))
    assert str(error.value).splitlines() == [
        "cannot get the weights of tiny-vit/t1: Network is unreachable",
        "  wanted: https://huggingface.co/org/repo",
        f"  looked in: {tmp_path}",
        "  what to do: get the file on another machine and name it in the config: "
        "MODEL.BACKBONE.NAME FILE@tiny-vit/t1, or copy that machine's cache to the folder above",
    ]


def test_tag_with_an_address_checks_the_hash_in_its_name(make, tiny_arch, tmp_path, monkeypatch, server):
    torch.save(make.clip("vit", quick_gelu=False).state_dict(), tmp_path / "a.pt")
    server.body = (tmp_path / "a.pt").read_bytes()
    for digits, good in ((hash_of(tmp_path / "a.pt")[:8], True), ("0" * 8, False)):
        url = f"{server.url}/mlfoundations/tiny-{digits}.pt"
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-vit", tag(hf_hub="", url=url))
        if good:
            assert clip.load_backbone("tiny-vit/t1", download_root=str(tmp_path / "c")).preprocess.size == 48
        else:
            with pytest.raises(DownloadError, match="what the server sent was deleted: .* expected 00000000"):
                clip.load_backbone("tiny-vit/t1", download_root=str(tmp_path / "c"))


def test_local_file_of_an_architecture_with_other_statistics_must_name_a_tag(make, tiny_arch, tmp_path, monkeypatch):
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-vit", tag())
    torch.save(make.clip("vit", quick_gelu=False).state_dict(), tmp_path / "a.pt")
    with pytest.raises(
        ValueError, match=r"tiny-vit want image mean \(0.1, 0.2, 0.3\), not OpenAI's .*a.pt@tiny-vit/t1"
    ):
        clip.load_backbone(f"{tmp_path}/a.pt@tiny-vit")


def test_demo(make, monkeypatch):
    from mocoop.clip import demo_model

    model = make.clip("vit")
    monkeypatch.setattr(demo_model, "load_demo", lambda: torch.rand(1) and model)
    state = torch.get_rng_state()
    backbone = clip.load_backbone("demo")
    assert backbone.model is model and backbone.preprocess == clip.DEMO_PREPROCESS
    assert torch.equal(torch.get_rng_state(), state)
