"""A trained classifier behind a small page and JSON over HTTP: `mocoop serve`.

`app` is the web application, `server` binds it to a port, `page/` is what a browser gets, which loads nothing else.
"""
