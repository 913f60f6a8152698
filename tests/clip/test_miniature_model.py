"""The miniature backbone: its architecture, and what the shipped weights know."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from mocoop import clip
from mocoop.clip import miniature_model as miniature
from mocoop.clip.preprocess import DEMO_PREPROCESS
from mocoop.datasets import miniature as mini
from mocoop.datasets import miniature_render
from open_clip import CLIP, get_tokenizer
from PIL import Image
from safetensors.torch import load_file
from torch import nn

CONFIGS = Path(clip.__file__).parent.parent / "configs"
# Zero-shot accuracy (%) of the shipped weights on the test drawings of Hebrew letters by look and template;
# measured with this very code.
RECORDED = {
    "plain": {"a hebrew letter of {}.": 78.4, "a negative hebrew letter of {}.": 46.6, "a photo of a {}.": 47.7},
    "negative": {"a hebrew letter of {}.": 37.5, "a negative hebrew letter of {}.": 61.4, "a photo of a {}.": 23.9},
}


@pytest.fixture(scope="module")
def shipped():
    return miniature.load_miniature()


def test_it_is_open_clips_model_with_the_norms_that_mocoop_tunes():
    model = miniature.build_miniature()
    assert type(model) is CLIP and model.training
    assert len(model.visual.transformer.resblocks) == miniature.VISION_LAYERS
    for block in model.visual.transformer.resblocks:
        assert isinstance(block.ln_1, nn.LayerNorm) and isinstance(block.ln_2, nn.LayerNorm)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    x = torch.randn(2, 3, 48, 48)
    for block, size, width in zip(model.visual.conv1, (24, 12, 4), (*miniature.STEM_WIDTHS, 128), strict=True):
        x = block(x)
        assert x.shape == (2, width, size, size)
    without_rows = sum(p.numel() for n, p in model.named_parameters() if n != "token_embedding.weight")
    assert without_rows + 4000 * miniature.TEXT_WIDTH < 6_000_000  # of the embedding some 4,000 rows are stored


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="miniature_pretrain.py"):
        miniature.load_miniature(tmp_path / "none.safetensors")


def test_the_shipped_file_is_small_and_plain():
    packed = load_file(miniature.WEIGHTS)
    assert miniature.WEIGHTS.stat().st_size < 4_000_000
    assert {tensor.dtype for tensor in packed.values()} == {torch.float16, torch.int32}
    assert all(torch.isfinite(tensor).all() for tensor in packed.values())


def test_the_shipped_backbone_by_name(shipped):
    backbone = clip.load_backbone("miniature")
    assert backbone.preprocess == DEMO_PREPROCESS and not backbone.model.training
    assert all(torch.equal(a, b) for a, b in zip(backbone.model.parameters(), shipped.parameters(), strict=True))
    assert 1 < shipped.logit_scale.exp() <= 100.1


def test_every_word_of_the_world_is_known(shipped):
    """A token whose embedding row is not stored is a zero vector: the model would not see the word."""
    known = shipped.token_embedding.weight.detach().abs().sum(1) > 0
    for recipe in mini.RECIPES.values():
        file = CONFIGS / "datasets" / f"{recipe.folder}.yaml"
        groups = yaml.safe_load(file.read_text())["TRAINER"]["MOCOOP"]["PROMPT_GROUPS"]
        templates = [*(t for group in groups for t in group), "a photo of a {}.", "{}"]
        texts = [template.format(name) for template in templates for name in mini.CLASSES[recipe.domain]]
        used = torch.unique(get_tokenizer("ViT-B-32")(texts))
        assert known[used[used > 0]].all(), recipe.folder
    trainer = yaml.safe_load((CONFIGS / "trainers" / "CoOp" / "miniature.yaml").read_text())["TRAINER"]["COOP"]
    used = torch.unique(get_tokenizer("ViT-B-32")([trainer.get("CTX_INIT", "")]))
    assert known[used[used > 0]].all()


def test_what_it_learned_from_has_every_class_of_the_world():
    """A class is a name that pretraining met, in its domain: by other designers."""
    learned = json.loads(miniature.WEIGHTS.with_name("vocabulary.json").read_text())
    for domain, names in mini.CLASSES.items():
        assert set(names) <= set(learned[domain]), domain


@torch.no_grad()
def test_zero_shot_accuracy_is_what_was_recorded_and_hangs_on_the_prompt(shipped):
    known = mini.drawings("hebrew")
    with Image.open(mini.ART / "hebrew.png") as sheet:
        art, mono = (torch.from_numpy(array) for array in mini.tiles(sheet))
    test = [index for index, drawing in enumerate(known) if drawing[3] == "test"]
    names = sorted(mini.CLASSES["hebrew"])
    labels = torch.tensor([names.index(known[index][0]) for index in test])
    for look, recorded in RECORDED.items():
        effect = torch.full((len(test),), miniature_render.EFFECTS.index(look))
        images = miniature_render.render(art[test], mono[test], effect, torch.Generator().manual_seed(0))
        features = shipped.encode_image((images - 0.5) / 0.5, normalize=True)
        for template, expected in recorded.items():
            text = shipped.encode_text(clip.tokenize([template.format(name) for name in names]), normalize=True)
            accuracy = 100 * ((features @ text.T).argmax(1) == labels).float().mean().item()
            assert abs(accuracy - expected) < 4, (look, template, accuracy)
