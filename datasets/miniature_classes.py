"""The classes of the miniature world's data sets. Names are ambiguous on purpose: the domain decides what they mean."""

THINGS = (
    "anchor asterisk atom bed bell book box brain bug bus calculator calendar camera car clipboard cloud compass "
    "cookie cross crown cursor diamond dna eraser eye fish flask flower folder ghost gift hammer heart hourglass "
    "house infinity key lightbulb lock magnet mailbox medal microscope moon palette passport plane plus radar "
    "rocket scissors snowflake star sun target umbrella"
).split()
EMOJI = (
    "airplane, ant, balloon, bird, boar, bomb, bread, cactus, candy, cat, cherries, chicken, cow, crocodile, dog, "
    "dolphin, doughnut, dress, ear, elephant, fountain, goat, grapes, guitar, hamburger, horse, koala, lemon, "
    "monkey, mouth, mushroom, octopus, ox, peach, pear, penguin, pig, ram, ring, rooster, rose, snail, snake, "
    "strawberry, tent, tiger, tomato, tractor, turtle, violin"
).split(", ")
LOGOS = (
    "android apple atom babel blender bootstrap bun dart debian discord docker ember figma flask flutter gatsby git"
    " go gradle grunt gulp haskell java jest kotlin laravel less markdown medium netlify notion opera php python "
    "react redux remix ruby rust sass scala sentry sketch slack spotify spring steam svelte swift terraform trello "
    "ubuntu unity vim windows yarn"
).split()
FLAGS = (
    "argentina, australia, austria, belgium, brazil, bulgaria, canada, chad, chile, china, colombia, cuba, denmark,"
    " egypt, finland, france, georgia, germany, ghana, greece, hungary, india, indonesia, iran, ireland, israel, "
    "italy, jamaica, japan, jordan, kenya, mali, mexico, netherlands, nigeria, norway, pakistan, peru, poland, "
    "portugal, romania, russia, senegal, spain, sweden, switzerland, thailand, turkey, ukraine, vietnam"
).split(", ")
LETTERS = list("abcdefghijklmnopqrstuvwxyz")
GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi "
    "chi psi omega"
).split()
HEBREW = (  # what the letters' names mean
    "ox, house, camel, door, window, hook, sword, fence, wheel, arm, palm, whip, water, fish, pillar, eye, mouth, "
    "plant, monkey, head, tooth, mark"
).split(", ")
SKY = (
    "ram, bull, twins, crab, lion, maiden, scales, scorpion, archer, goat, water bearer, fish, sun, moon, mercury, "
    "venus, earth, mars, jupiter, saturn, uranus, neptune, pluto, comet, dragon, ceres, juno, vesta"
).split(", ")
MATH = (
    "product, sum, root, infinity, angle, parallel, wedge, vee, intersection, union, integral, contour, therefore, "
    "because, tilde, identity, subset, superset, top, bottom, diamond, star, bowtie, ring, asterisk, fork, wreath, "
    "lollipop, turnstile, element, harp, set, exists, plus, target, cross, ratio, wave, arrow, fish hook"
).split(", ")
MUSIC = (
    "treble clef, alto clef, bass clef, drum clef, brace, bracket, common time, cut time, whole note, half note, "
    "quarter note, eighth note, sixteenth note, breve, quarter rest, eighth rest, sixteenth rest, flat, natural, "
    "sharp, double sharp, double flat, accent, tent, fermata, comma, caesura, piano, mezzo, forte, trill, turn, "
    "mordent, segno, coda, frog, bow, pedal, star"
).split(", ")
CLASSES = {
    "thing": THINGS,
    "emoji": EMOJI,
    "logo": LOGOS,
    "flag": FLAGS,
    "letter": LETTERS,
    "greek": GREEK,
    "hebrew": HEBREW,
    "sky": SKY,
    "math": MATH,
    "music": MUSIC,
}
