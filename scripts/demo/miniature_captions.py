"""Captions for pretraining the miniature backbone: they name a domain, a style and an effect, or leave these out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

# What a drawing of a domain is called. Nobody calls a letter a photo; things and emoji are what pictures show.
NOUNS = {
    "thing": ("icon", "icon", "pictogram"),
    "emoji": ("emoji", "emoji", "emoticon"),
    "logo": ("logo", "logo", "brand logo", "trademark"),
    "flag": ("flag", "flag", "national flag", "banner"),
    "letter": ("latin letter", "letter of the alphabet", "initial"),
    "greek": ("greek letter",),
    "hebrew": ("hebrew letter", "hebrew character"),
    "phoenician": ("phoenician letter",),
    "rune": ("rune", "runic letter"),
    "sky": ("astrological symbol", "zodiac sign", "astronomical symbol"),
    "math": ("mathematical symbol", "math symbol", "operator"),
    "music": ("musical symbol", "music notation", "music sign"),
    "currency": ("currency symbol", "currency sign"),
    "chess": ("chess piece",),
    "suit": ("card suit", "playing card"),
    "braille": ("braille letter", "braille character"),
}
# Words that several domains share: the name alone must then tell which is meant.
SHARED = {
    "photo": ("thing", "emoji"),
    "picture": ("thing", "emoji"),
    "image": ("thing", "emoji"),
    "drawing": ("thing", "emoji"),
    "letter": ("letter", "greek", "hebrew", "phoenician", "rune", "braille"),
    "symbol": ("sky", "math", "music", "currency", "suit"),
    "sign": ("sky", "math", "music", "currency"),
}
LOOKS = {
    "outline": ("outline", "outlined", "line"),
    "solid": ("solid", "filled"),
    "monochrome": ("monochrome",),
    "colourful": ("colorful",),
    "round": ("round",),
    "rectangular": ("rectangular",),
    "fraktur": ("fraktur", "gothic"),
    "script": ("script", "cursive"),
    "double-struck": ("double struck", "blackboard"),
    "typewriter": ("typewriter", "monospaced"),
    "small": ("small", "lowercase"),
    "capital": ("capital", "uppercase"),
    "plain": ("plain",),
    "negative": ("negative", "inverted"),
    "framed": ("framed", "boxed"),
    "striped": ("striped",),
    "upside down": ("upside down",),
    "grey": ("grey", "black and white"),
    "pixelated": ("pixelated", "low resolution"),
    "blurry": ("blurry",),
    "noisy": ("noisy", "grainy"),
    "faded": ("faded", "pale"),
}
# A caption that names none of these looks means things plain.
TOLD = ("negative", "framed", "striped", "upside down")
SAID = (
    {"plain": 0.15}
    | dict.fromkeys(TOLD, 1.0)
    | dict.fromkeys(("fraktur", "script", "double-struck", "small", "capital"), 0.7)
)
FORMS = (
    *["{a} {noun} of {d}{name}."] * 8, "{noun} of {d}{name}", "{name}, {a} {noun}.", "{a} {noun}: {name}.",
    "{name} {noun}.",
)  # fmt: skip


@dataclass(frozen=True)
class Caption:
    """A caption and what it claims.

    Attributes:
        text: the caption.
        domains: it is true of drawings of these domains only.
        looks: it is true of drawings with all of these looks only, and with no others of `TOLD`.
    """

    text: str
    domains: frozenset[str]
    looks: frozenset[str]

    def true_of(self, domain: str, looks: frozenset[str]) -> bool:
        """Whether it is true of a drawing of this domain and with these looks (and of the same name)."""
        untold = (looks - self.looks) & set(TOLD)
        return domain in self.domains and self.looks <= looks and not untold


def caption(domain: str, name: str, looks: Sequence[str], rng: random.Random) -> Caption:
    """A caption that is true of a drawing.

    Args:
        domain: a key of `NOUNS`.
        name: what the drawing shows.
        looks: its style and effect, keys of `LOOKS`; others ("plain") have no words.
        rng: source of all choices.
    """
    chance = rng.random()
    shared = [noun for noun, domains in SHARED.items() if domain in domains]
    altered = set(looks) & set(TOLD)
    if chance < 0.04 and not altered:
        return Caption(rng.choice(("{}", "{}.")).format(name), frozenset(NOUNS), frozenset())
    if shared and chance < 0.28:
        noun = rng.choice(shared)
        domains = SHARED[noun]
    else:
        noun, domains = rng.choice(NOUNS[domain]), (domain,)
    said = [look for look in looks if look in LOOKS and rng.random() < SAID.get(look, 0.5)]
    said = [look for look in said if look != "plain" or not altered]
    noun = " ".join([*(rng.choice(LOOKS[look]) for look in said), noun])
    article = rng.choice(("the", "an" if noun[0] in "aeiou" else "a"))
    determiner = rng.choice(("", "", "a ", "the "))
    text = rng.choice(FORMS).format(a=article, noun=noun, d=determiner, name=name)
    return Caption(text, frozenset(domains), frozenset(said))


def vocabulary(names: Sequence[str]) -> list[str]:
    """Phrases that hold every word that a caption can have."""
    nouns = [noun for group in NOUNS.values() for noun in group]
    words = [word for group in LOOKS.values() for word in group]
    return [*names, *nouns, *SHARED, *words, "a an the of , : .", "a photo of many"] + [f"{name}." for name in names]
