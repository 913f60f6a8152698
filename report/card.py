"""What a model card says: facts of the model and its training, licences, limits; in words, from what is known."""

from __future__ import annotations

from collections.abc import Mapping

from .. import methods
from ..classifier.classifier import Classifier
from ..clip.names import EMBEDDED, OPENAI
from .measured import Measured

ROUGH = 30  # images of a class below which its accuracy is only roughly known
Fact = tuple[str, str]


def facts(classifier: Classifier, env: Mapping[str, object], epochs: int) -> list[Fact]:
    """The model card's (term, text) pairs.

    Args:
        env: of the run's env.json, {} if there is none; epochs: in its metrics.jsonl.
    """
    model, fit = classifier.model, classifier.fit_
    row = methods.named(model.method)
    found = [
        ("Method", f"{model.method}" + (f" ({row.paper})" if row.paper else "")),
        ("Backbone", f"CLIP {model.backbone.name}, images of {model.backbone.preprocess.size} pixels"),
        ("Classes", f"{len(classifier.classes_):,}"),
        ("Trained on", trained_on(fit, row.trained)),
        ("Training", training(fit, epochs, row.trained)),
        ("Trained parameters", f"{sum(p.numel() for p in model.parameters()):,}"),
        ("Calibration", calibration(classifier)),
        ("Versions", versions(classifier, env)),
        ("Licence of the weights", licence(model.backbone.name)),
    ]
    return [(term, text) for term, text in found if text]


def trained_on(fit: Mapping[str, object], trained: bool) -> str:
    """Which images, in words."""
    if not trained:
        return "class names only, no images"
    parts = [f"{fit['images']:,} images" if fit.get("images") is not None else ""]
    parts += [f"{fit['shots']} of each class at most"] if fit.get("shots") else []
    parts += [f"data set {fit['dataset']}"] if fit.get("dataset") else []
    return ", ".join(filter(None, parts)) or "not recorded"


def training(fit: Mapping[str, object], epochs: int, trained: bool) -> str:
    """How it was trained, in words."""
    recipe = fit.get("recipe")
    if not trained:
        return ""
    if not isinstance(recipe, Mapping):
        return f"{epochs} epochs" if epochs else "not recorded"
    return (
        f"{recipe.get('epochs')} epochs, batches of {recipe.get('batch_size')}, {recipe.get('optimizer')}, learning "
        f"rate {recipe.get('lr')} ({recipe.get('schedule')}), seed {fit.get('seed')}"
    )


def calibration(classifier: Classifier) -> str:
    """Temperature and threshold, in words."""
    if not classifier.figures_.get("held_out"):
        return "none: probabilities are CLIP's own, and may be far from frequencies"
    text = f"temperature {classifier.temperature_:.3g}, fitted on held-out images"
    if classifier.threshold_ > 0:
        text += f"; answers below {min(classifier.threshold_, 1):.3f} are unsure"
    return text


def versions(classifier: Classifier, env: Mapping[str, object]) -> str:
    """Versions that it was trained with, and of the program that wrote the report."""
    from .. import __version__

    found = dict(classifier.versions_)
    more = env.get("versions")
    found |= {"mocoop": env["mocoop"]} if env.get("mocoop") else {}
    found |= more if isinstance(more, Mapping) else {}
    trained = ", ".join(f"{name} {value}" for name, value in found.items() if value)
    return f"{f'trained with {trained}; ' if trained else ''}report by mocoop {__version__}"


def licence(backbone: str) -> str:
    """What is known of the licence of CLIP's weights, from the backbone's name."""
    tag = backbone.partition("/")[2]
    if backbone in EMBEDDED:
        return f"a small model that comes with mocoop: see its clip/{backbone}/MODEL_CARD.md"
    if backbone in OPENAI:
        return "MIT (OpenAI's CLIP; its model card asks for tests in the intended use before any deployment)"
    if tag.startswith("laion"):
        return "MIT (LAION's weights for open_clip)"
    return "not known here: see where the weights come from"


def limits(classifier: Classifier, measured: Measured | None) -> list[str]:
    """What to keep in mind, in sentences."""
    count = len(classifier.classes_)
    said = [
        f"It knows {count:,} classes. An image of anything else is given one of them all the same"
        + (" unless its probability falls below the threshold." if classifier.threshold_ > 0 else ".")
    ]
    if measured is None:
        return [*said, "Nothing about its accuracy was measured for this report."]
    support = [count for row in measured.confusion if (count := sum(row))]
    if missing := len(measured.confusion) - len(support):
        said.append(f"{missing:,} of the {len(measured.confusion):,} classes had no image: nothing is known of them.")
    if min(support) < ROUGH:
        said.append(
            f"Accuracies of single classes are rough: the smallest has {min(support)} images. With {ROUGH} images, one "
            "more or less is 3 points."
        )
    said.append("The figures hold for images like those measured: other cameras, places or times were not looked at.")
    if measured.seen:
        said.append("They say something only if it was not trained on these very images.")
    if not classifier.figures_.get("held_out"):
        said.append("Its probabilities were not calibrated on held-out images.")
    said.append(
        "CLIP was trained on pictures and English texts from the web, and takes over what is one-sided in them; class "
        "names in other languages, or that mean several things, are answered worse."
        if classifier.model.backbone.name not in EMBEDDED
        else "Its backbone is small and made of drawings: it is there to try the program, not for anybody's photos."
    )
    return said
