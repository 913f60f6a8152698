import pytest
import torch
import torch.nn.functional as F
from mocoop import methods
from mocoop.classifier.similarity import SIDE, SimilarityMap, check_vit, class_rows, patch_features, similarity_map
from mocoop.clip import Backbone
from mocoop.toolbox.dassl.errors import WrongValue
from mocoop.trainers.coop import CoOpModel
from PIL import Image


def plain_patches(visual, image):
    """Patch features of one image [3, S, S], token by token, through the blocks as they are."""
    x = visual._embeds(image[None])
    for block in visual.transformer.resblocks:
        x = block(x)
    rows = [F.normalize(visual.ln_post(token) @ visual.proj, dim=0) for token in x[0, 1:]]
    return torch.stack(rows)


@torch.no_grad()
def test_patches_are_what_a_plain_loop_gives(tiny_backbone):
    model = CoOpModel(tiny_backbone, ["cat", "dog"], n_ctx=2)
    torch.manual_seed(0)
    images = torch.randn(3, 3, 32, 32)
    patches, features = patch_features(model, images)
    assert patches.shape == (3, 2, 2, 24)  # 32 pixels in patches of 16
    for b in range(3):
        expected = plain_patches(tiny_backbone.visual, images[b])
        assert torch.allclose(patches[b].flatten(0, 1), expected, atol=1e-5)
    assert torch.allclose(features, model.encode_image(images), atol=1e-5)
    assert not tiny_backbone.visual.transformer.resblocks[-1]._forward_hooks


@pytest.mark.parametrize("method", [row.name for row in methods.OURS])
def test_class_features_give_the_logits(method, fitted, images):
    model = fitted(method).model
    (batch,) = fitted(method).stream(images[:5])
    with torch.no_grad():  # (not around `fitted`, which trains)
        rows, logits = class_rows(model, batch.features), model.logits(batch.features)
    for b in range(5):
        plain = [float(model.logit_scale) * float(batch.features[b] @ rows[b, c]) for c in range(3)]
        assert torch.allclose(torch.tensor(plain), logits[b], atol=1e-3)


@pytest.mark.parametrize("method", ["MoCoOp", "CoCoOp"])
def test_a_map_is_cosines_of_patches_with_the_answers_class_feature(method, fitted, images):
    clf = fitted(method)
    found = clf.similarity(images[0])
    (batch,) = clf.stream(images[:1])
    c = int(batch.probabilities[0].argmax())
    assert found.label == clf.classes_[c] and found.image == images[0]
    pixels = clf.preprocess(Image.open(images[0]))
    with torch.no_grad():
        rows = class_rows(clf.model, batch.features)[0, c]
        patches = plain_patches(clf.model.backbone.visual, pixels)
    expected = [float(F.cosine_similarity(patch, rows, dim=0)) for patch in patches]
    assert len(found.values) == 6 and torch.allclose(
        torch.tensor(found.values).flatten(), torch.tensor(expected), atol=1e-4
    )
    other = clf.similarity(images[0], clf.classes_[(c + 1) % 3])
    assert other.values != found.values and other.label == clf.classes_[(c + 1) % 3]
    with pytest.raises(WrongValue, match="'horse' is no class"):
        clf.similarity(images[0], "horse")


def test_where_the_tower_averages_patches_their_mean_is_the_image(demo, fitted, images):
    """The demo's feature is the mean of its patches before they are brought to norm 1."""
    visual = fitted("CoOp").model.backbone.visual
    pixels = fitted("CoOp").preprocess(Image.open(images[0]))
    with torch.no_grad():
        patches, features = patch_features(fitted("CoOp").model, pixels[None])
    assert visual.pool_type == "avg" and float(F.cosine_similarity(patches.mean(dim=(1, 2)), features)) > 0.98


def test_the_overlay_is_light_where_patches_are_near():
    found = SimilarityMap("x.png", "dog", [[0.0, 0.1], [0.2, 0.3]], Image.new("RGB", (32, 32), "grey"))
    picture = found.overlay()
    assert picture.width == SIDE and picture.height > SIDE
    light = [
        sum(picture.getpixel((x, y))) for x, y in [(20, 20), (SIDE - 20, 20), (20, SIDE - 20), (SIDE - 20, SIDE - 20)]
    ]
    assert light == sorted(light) and light[0] < light[-1] - 100
    flat = SimilarityMap("x.png", "dog", [[0.1, 0.1]] * 2, Image.new("RGB", (32, 32))).overlay()
    assert flat.getpixel((9, 9)) == flat.getpixel((300, 300))


def test_a_resnet_is_refused(tokenizer, tiny_backbone):
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, image_size=32)
    resnet = CLIP(embed_dim=24, vision_cfg=vision, text_cfg=CLIPTextCfg(width=32, heads=2, layers=1)).eval()
    model = CoOpModel(Backbone("RN50", resnet, tiny_backbone.preprocess, tokenizer), ["cat", "dog"], n_ctx=2)
    with pytest.raises(WrongValue, match="similarity maps need the patch tokens of a ViT.*RN50 is a ModifiedResNet"):
        check_vit(model)
    with pytest.raises(WrongValue, match="ViT-B/16"):
        similarity_map(model, ["cat", "dog"], Image.new("RGB", (32, 32)))


def test_a_method_that_scores_otherwise_is_refused(tiny_backbone):
    class Odd(CoOpModel):
        method = "CoOp"

        def logits(self, features):
            return super().logits(features) + features.sum(dim=1, keepdim=True) * 3 + 1

    model = Odd(tiny_backbone, ["cat", "dog"], n_ctx=2)
    with pytest.raises(WrongValue, match="does not score by comparing"):
        class_rows(model, F.normalize(torch.ones(1, 24), dim=1))
