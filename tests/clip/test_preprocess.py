import pickle

import numpy as np
import pytest
import torch
from mocoop.clip import DEMO_PREPROCESS, Preprocess, build_transform
from mocoop.clip.preprocess import OPENAI_MEAN, OPENAI_STD, openai_preprocess
from PIL import Image


def picture(mode, width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_transform_equals_open_clips(mode):
    from open_clip.transform import image_transform

    theirs = image_transform(64, is_train=False, mean=OPENAI_MEAN, std=OPENAI_STD)
    for width, height in ((100, 61), (61, 100), (64, 64), (30, 200)):
        image = picture(mode, width, height)
        ours = build_transform(openai_preprocess(64))(image)
        assert ours.shape == (3, 64, 64) and ours.dtype == torch.float32
        assert torch.equal(ours, theirs(image))


def test_normalisation_by_hand():
    """A grey image of 51/255 = 0.2: (0.2 - mean) / std per channel."""
    image = Image.new("RGB", (10, 12), (51, 51, 51))
    tensor = build_transform(Preprocess(8, (0.1, 0.2, 0.3), (0.5, 0.25, 1.0), "bilinear"))(image)
    for channel, expected in enumerate((0.2, 0.0, -0.1)):
        assert tensor[channel].sub(expected).abs().max() < 1e-6


def test_constants():
    assert DEMO_PREPROCESS == Preprocess(48, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")
    assert OPENAI_MEAN == (0.48145466, 0.4578275, 0.40821073) and OPENAI_STD == (0.26862954, 0.26130258, 0.27577711)


def test_a_transform_can_be_sent_to_workers():
    image = picture("RGB", 50, 60)
    transform = build_transform(DEMO_PREPROCESS)
    assert torch.equal(pickle.loads(pickle.dumps(transform))(image), transform(image))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0, OPENAI_MEAN, OPENAI_STD), "size=0"),
        ((8, (0.5,), OPENAI_STD), r"mean=\(0.5,\)"),
        ((8, OPENAI_MEAN, (0.5, 0.0, 0.5)), r"std=\(0.5, 0.0, 0.5\)"),
        ((8, OPENAI_MEAN, OPENAI_STD, "cubic"), "'cubic'"),
    ],
)
def test_nonsense_is_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        Preprocess(*arguments)
