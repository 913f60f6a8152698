"""One self-contained HTML page about a trained model: what it is, how good it is, where it errs, what its experts do.

`content` gathers (from a classifier, its run's folder and, if given, labelled images), `page` renders; `measured` holds
the figures, `charts` the geometry of diagrams, `card` what a model card says. `page.html`, `page.css` and `page.js` are
the page itself.
"""
