"""Where the drawings of the miniature world come from: designers, their packages, and which concept each glyph shows.

Every designer stands on one side: `pretrain` (the backbone saw it) or `task` (the data sets use it). Debian's fonts and
the npm packages are needed only to collect drawings anew (`miniature_collect.py`), never at run time.
"""

from __future__ import annotations

from dataclasses import dataclass

SIDES = ("pretrain", "task")
# Icon designers of npm's @iconify-json: side, style of a name without a suffix, suffixes that tell a style.
ICONS = {
    "mdi": ("pretrain", "solid", {"-outline": "outline"}),
    "tabler": ("pretrain", "outline", {"-filled": "solid"}),
    "material-symbols": ("pretrain", "solid", {"-outline": "outline"}),
    "mingcute": ("pretrain", None, {"-fill": "solid", "-line": "outline"}),
    "uil": ("pretrain", "outline", {}),
    "carbon": ("pretrain", "outline", {"-filled": "solid"}),
    "game-icons": ("pretrain", "solid", {}),
    "fluent": ("pretrain", None, {"-24-filled": "solid", "-24-regular": "outline"}),
    "ph": ("task", "outline", {"-fill": "solid", "-bold": "outline"}),
    "ri": ("task", None, {"-fill": "solid", "-line": "outline"}),
    "fa6-solid": ("task", "solid", {}),
    "bi": ("task", "outline", {"-fill": "solid"}),
    "lucide": ("task", "outline", {}),
    "solar": ("task", None, {"-bold": "solid", "-linear": "outline"}),
    "iconoir": ("task", "outline", {"-solid": "solid"}),
    "hugeicons": ("task", "outline", {}),
}
EMOJI = {
    "twemoji": "pretrain",
    "fluent-emoji-flat": "pretrain",
    "fluent-emoji-high-contrast": "pretrain",
    "noto": "task",
    "emojione": "task",
    "emojione-monotone": "task",
    "fxemoji": "task",
    "streamline-emojis": "task",
}
LOGOS = {
    "simple-icons": "pretrain",
    "vscode-icons": "pretrain",
    "material-icon-theme": "pretrain",
    "file-icons": "pretrain",
    "logos": "task",
    "devicon": "task",
    "devicon-plain": "task",
    "skill-icons": "task",
    "fa6-brands": "task",
    "cib": "task",
    "bxl": "task",
}
FLAGS = {
    "circle-flags": "pretrain",
    "cif": "pretrain",
    "twemoji": "pretrain",
    "flag": "task",
    "flagpack": "task",
    "emojione": "task",
    "streamline-emojis": "task",
}
# Drawings of these designers are one shape: they never fall on both sides of the train/test split.
SAME = {"emojione-monotone": "emojione", "devicon-plain": "devicon"}
VEXFLOW = {
    "gonville": "pretrain",
    "gootville": "pretrain",
    "leipzig": "pretrain",
    "leland": "pretrain",
    "finalebroadway": "pretrain",
    "bravura": "task",
    "petaluma": "task",
    "sebastian": "task",
    "musejazz": "task",
    "finaleash": "task",
    "finalejazz": "task",
    "finalemaestro": "task",
}


@dataclass(frozen=True)
class Face:
    """A font family: its designer's name, its side, its files (glob patterns), and the style its letters have."""

    designer: str
    side: str
    files: tuple[str, ...]
    style: str | None = None


DEBIAN, FONTSOURCE = "/usr/share/fonts", "@fontsource"


def _debian(side: str, **families: str) -> list[Face]:
    return [
        Face(name, side, tuple(f"{DEBIAN}/**/{pattern}" for pattern in files.split()))
        for name, files in families.items()
    ]


def _fontsource(names: str, script: str, style: str | None = None) -> list[Face]:
    return [
        Face(name, "task", tuple(f"{FONTSOURCE}/{name}/files/{name}-{script}-{w}00-normal.woff" for w in "47"), style)
        for name in names.split()
    ]


# Families that the backbone saw. DejaVu, Symbola, STIX, Noto Math and Symbols, Cardo and the GFS fonts are for tasks.
SEEN = [
    *_debian(
        "pretrain",
        freeserif="FreeSerif.* FreeSerifBold.* FreeSerifItalic.*",
        freesans="FreeSans.* FreeSansBold.*",
        freemono="FreeMono.ttf FreeMonoBold.ttf",
        asana="Asana*.*",
        unifont="unifont.otf unifont_upper.otf",
        liberation="LiberationSans-Regular.* LiberationSerif-Regular.* LiberationMono-Regular.*",
        cmu="cmunrm.* cmunbx.* cmunci.* cmunss.* cmuntt.*",
        carlito="Carlito-Regular.*",
        lato="Lato-Regular.* Lato-Black.*",
        opensans="OpenSans-Regular.*",
        roboto="Roboto-Regular.* Roboto-Black.*",
        inter="Inter-Regular.*",
        gentium="GentiumPlus-R*.* GentiumPlus-Italic.*",
        linlibertine="LinLibertine_R.* LinLibertine_RI.*",
        linbiolinum="LinBiolinum_R.* LinBiolinum_RB.*",
        ancient="Anaktoria_hint.* Alexander_hint.* Avdira_hint.* Aroania_hint.* AseaR_hint.* Alfios_R.* Atavyros.*",
        damase="damase*.*",
        aegean="Aegean_hint.*",
        culmus="*CLM*.ttf *CLM*.otf",
        notohebrew="NotoSansHebrew-Regular.* NotoSerifHebrew-Regular.* NotoRashiHebrew-Regular.*",
        notorunic="NotoSansRunic*.*",
        notophoenician="NotoSansPhoenician*.*",
        notosymbols2="NotoSansSymbols2*.*",
        junicode="JunicodeTwoBeta-Regular.*",
    ),
    Face("latinmodern", "pretrain", ("/usr/share/texmf/fonts/**/latinmodern-math.*",)),
    *(
        Face(f"gyre-{name}", "pretrain", (f"/usr/share/texmf/fonts/**/texgyre{name}-math.*",))
        for name in ("pagella", "schola", "bonum", "termes")
    ),
]
TASK = [
    *_debian(
        "task",
        notosymbols="NotoSansSymbols-Regular.* NotoSansSymbols-Bold.*",
        notomath="NotoSansMath*.*",
        symbola="Symbola_hint.*",
        stix="STIXGeneral.* STIX-Regular.* STIXMath-Regular.*",
        dejavu="DejaVuSans.ttf DejaVuSansMono.ttf DejaVuSans-Bold.ttf",
        dejavumath="DejaVuMathTeXGyre.ttf",
        cardo="Cardo104s.* Cardob101.*",
        artemisia="GFSArtemisia.otf GFSArtemisiaBold.otf",
        bodoni="GFSBodoniClassic.*",
        complutum="GFSPolyglot.*",
        didot="GFSDidot.otf",
        gazis="GFSGazis.*",
        neohellenic="GFSNeohellenic.otf GFSNeohellenicBold.otf",
        olga="GFSOlga.*",
        porson="GFSPorson.*",
        solomos="GFSSolomos.*",
        theokritos="GFSTheokritos.*",
        gfsbaskerville="GFSBaskerville.*",
        galatia="GalSILR*.*",
        ezra="SILEOT.*",
    ),
]
GREEK_FACES = _fontsource("comfortaa advent-pro alegreya didact-gothic fira-sans jura literata caudex anonymous-pro "
                          "vollkorn source-serif-4 press-start-2p", "greek")  # fmt: skip
HEBREW_FACES = _fontsource("frank-ruhl-libre heebo rubik assistant secular-one suez-one david-libre miriam-libre alef "
                           "amatic-sc varela-round bellefair karantina", "hebrew")  # fmt: skip
LETTER_FACES = [
    *_fontsource("unifrakturmaguntia unifrakturcook pirata-one grenze-gotisch new-rocker", "latin", "fraktur"),
    *_fontsource("great-vibes dancing-script parisienne alex-brush tangerine", "latin", "script"),
    *_fontsource("courier-prime special-elite cutive-mono cousine space-mono", "latin", "typewriter"),
]

GREEK = ("alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon "
         "phi chi psi omega").split()  # fmt: skip
SMALL_GREEK = dict(zip(GREEK, [*range(0x3B1, 0x3C2), *range(0x3C3, 0x3CA)], strict=True))
CAPITAL_GREEK = {name: code - 0x20 for name, code in SMALL_GREEK.items()}
SEMITIC = ("ox, house, camel, door, window, hook, sword, fence, wheel, arm, palm, whip, water, fish, pillar, eye, "
           "mouth, plant, monkey, head, tooth, mark").split(", ")  # fmt: skip  # what the letters' old names mean
HEBREW = dict(
    zip(SEMITIC, [c for c in range(0x5D0, 0x5EB) if c not in (0x5DA, 0x5DD, 0x5DF, 0x5E3, 0x5E5)], strict=True)
)
PHOENICIAN = {name: 0x10900 + number for number, name in enumerate(SEMITIC)}
RUNES = {
    "wealth": 0x16A0, "ox": 0x16A2, "thorn": 0x16A6, "god": 0x16A8, "wagon": 0x16B1, "torch": 0x16B2, "gift": 0x16B7,
    "joy": 0x16B9, "hail": 0x16BA, "need": 0x16BE, "ice": 0x16C1, "year": 0x16C3, "yew": 0x16C7, "pear": 0x16C8,
    "elk": 0x16C9, "sun": 0x16CA, "arrow": 0x16CF, "birch": 0x16D2, "horse": 0x16D6, "man": 0x16D7, "water": 0x16DA,
    "seed": 0x16DC, "day": 0x16DE, "house": 0x16DF,
}  # fmt: skip
ZODIAC = "ram, bull, twins, crab, lion, maiden, scales, scorpion, archer, goat, water bearer, fish".split(", ")
ZODIAC_EMOJI = "aries taurus gemini cancer leo virgo libra scorpio sagittarius capricorn aquarius pisces".split()
SKY = {name: 0x2648 + number for number, name in enumerate(ZODIAC)} | {
    "sun": 0x2609, "moon": 0x263D, "mercury": 0x263F, "venus": 0x2640, "earth": 0x2641, "mars": 0x2642,
    "jupiter": 0x2643, "saturn": 0x2644, "uranus": 0x2645, "neptune": 0x2646, "pluto": 0x2647, "comet": 0x2604,
    "dragon": 0x260A, "ceres": 0x26B3, "juno": 0x26B5, "vesta": 0x26B6,
}  # fmt: skip
MATH = {
    "product": 0x220F, "sum": 0x2211, "root": 0x221A, "infinity": 0x221E, "angle": 0x2220, "parallel": 0x2225,
    "wedge": 0x2227, "vee": 0x2228, "intersection": 0x2229, "union": 0x222A, "integral": 0x222B, "contour": 0x222E,
    "therefore": 0x2234, "because": 0x2235, "tilde": 0x223C, "identity": 0x2261, "subset": 0x2282, "superset": 0x2283,
    "top": 0x22A4, "bottom": 0x22A5, "diamond": 0x22C4, "star": 0x22C6, "bowtie": 0x22C8, "ring": 0x2218,
    "asterisk": 0x2217, "fork": 0x22D4, "wreath": 0x2240, "lollipop": 0x22B8, "turnstile": 0x22A2, "element": 0x2208,
    "harp": 0x2207, "set": 0x2205, "exists": 0x2203, "plus": 0x2295, "target": 0x2299, "cross": 0x2297,
    "ratio": 0x2236, "wave": 0x2248, "arrow": 0x2192, "fish hook": 0x21AA,
}  # fmt: skip
MUSIC = {
    "treble clef": 0xE050, "alto clef": 0xE05C, "bass clef": 0xE062, "drum clef": 0xE069, "brace": 0xE000,
    "bracket": 0xE002, "common time": 0xE08A, "cut time": 0xE08B, "whole note": 0xE1D2, "half note": 0xE1D3,
    "quarter note": 0xE1D5, "eighth note": 0xE1D7, "sixteenth note": 0xE1D9, "breve": 0xE0A0, "quarter rest": 0xE4E5,
    "eighth rest": 0xE4E6, "sixteenth rest": 0xE4E7, "flat": 0xE260, "natural": 0xE261, "sharp": 0xE262,
    "double sharp": 0xE263, "double flat": 0xE264, "accent": 0xE4A0, "tent": 0xE4AC, "fermata": 0xE4C0,
    "comma": 0xE4CE, "caesura": 0xE4D1, "piano": 0xE520, "mezzo": 0xE521, "forte": 0xE522, "trill": 0xE566,
    "turn": 0xE567, "mordent": 0xE56D, "segno": 0xE047, "coda": 0xE048, "frog": 0xE610, "bow": 0xE612,
    "pedal": 0xE650, "star": 0xE655,
}  # fmt: skip
CURRENCY = {
    "dollar": 0x24, "cent": 0xA2, "pound": 0xA3, "yen": 0xA5, "franc": 0x20A3, "lira": 0x20A4, "mill": 0x20A5,
    "naira": 0x20A6, "peseta": 0x20A7, "rupee": 0x20B9, "won": 0x20A9, "shekel": 0x20AA, "dong": 0x20AB,
    "euro": 0x20AC, "kip": 0x20AD, "tugrik": 0x20AE, "mark": 0x20B0, "peso": 0x20B1, "crown": 0x20A2, "colon": 0x20A1,
}  # fmt: skip
CARDS = {
    "king": 0x265A, "queen": 0x265B, "rook": 0x265C, "bishop": 0x265D, "knight": 0x265E, "pawn": 0x265F,
}  # fmt: skip
SUITS = {"spade": 0x2660, "heart": 0x2665, "diamond": 0x2666, "club": 0x2663}
BRAILLE = {
    "a": 0x2801, "b": 0x2803, "c": 0x2809, "d": 0x2819, "e": 0x2811, "f": 0x280B, "g": 0x281B, "h": 0x2813, "i": 0x280A,
    "j": 0x281A, "k": 0x2805, "l": 0x2807, "m": 0x280D, "n": 0x281D, "o": 0x2815, "p": 0x280F, "q": 0x281F, "r": 0x2817,
    "s": 0x280E, "t": 0x281E, "u": 0x2825, "v": 0x2827, "w": 0x283A, "x": 0x282D, "y": 0x283D, "z": 0x2835,
}  # fmt: skip
LATIN = "abcdefghijklmnopqrstuvwxyz"
CAPITALS = {letter: 0x41 + number for number, letter in enumerate(LATIN)}


def _alphabet(start: int, **holes: int) -> dict[str, int]:
    return {letter: holes.get(letter, start + number) for number, letter in enumerate(LATIN)}


ALPHABETS = {
    "fraktur": _alphabet(0x1D504, c=0x212D, h=0x210C, i=0x2111, r=0x211C, z=0x2128),
    "script": _alphabet(
        0x1D49C, b=0x212C, e=0x2130, f=0x2131, h=0x210B, i=0x2110, l=0x2112, m=0x2133, r=0x211B
    ),
    "double-struck": _alphabet(0x1D538, c=0x2102, h=0x210D, n=0x2115, p=0x2119, q=0x211A, r=0x211D, z=0x2124),
    "typewriter": _alphabet(0x1D670),
}  # fmt: skip
# domain, style, name -> code point, which faces
SCRIPTS = [
    ("greek", "small", SMALL_GREEK, [*SEEN, *TASK, *GREEK_FACES]),
    ("greek", "capital", CAPITAL_GREEK, [*SEEN, *TASK, *GREEK_FACES]),
    ("hebrew", None, HEBREW, [*SEEN, *TASK, *HEBREW_FACES]),
    ("phoenician", None, PHOENICIAN, SEEN),
    ("rune", None, RUNES, SEEN),
    ("sky", None, SKY, [*SEEN, *TASK]),
    ("math", None, MATH, [*SEEN, *TASK]),
    ("currency", None, CURRENCY, SEEN),
    ("chess", None, CARDS, SEEN),
    ("suit", None, SUITS, SEEN),
    ("braille", None, BRAILLE, SEEN),
    ("letter", None, CAPITALS, SEEN),
    *(("letter", style, table, [*SEEN, *TASK]) for style, table in ALPHABETS.items()),
]
