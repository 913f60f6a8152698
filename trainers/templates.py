"""Hand-written templates of the benchmark (CoOp's zero-shot baselines)."""

DEFAULT_TEMPLATE = "a photo of a {}."

# Zero-shot template per data set, as in CoOp's ZeroshotCLIP; the demo sets show icons.
DATASET_TEMPLATES = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "Food101": "a photo of {}, a type of food.",
    "UCF101": "a photo of a person doing {}.",
    "DemoIcons": "an icon of a {}.",
    "DemoSymbols": "an icon of a {}.",
    "DemoObjects": "an icon of a {}.",
    "DemoIconsSketch": "an icon of a {}.",
    "DemoIconsPixel": "an icon of a {}.",
    "DemoIconsTilted": "an icon of a {}.",
}

# The seven that OpenAI's notebook selects from its 80 ImageNet templates.
IMAGENET_SELECT = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


def dataset_template(dataset: str, chosen: str = "") -> str:
    """The template of a data set: `chosen` if it is not empty, else the benchmark's, else "a photo of a {}."."""
    return chosen or DATASET_TEMPLATES.get(dataset, DEFAULT_TEMPLATE)
