"""Pages in a browser, and fixtures of the classifier and of finished runs."""

import pytest
from mocoop.tests.classifier.conftest import demo, fitted, fitted_run, photos  # noqa: F401  (fixtures)


class Opened:
    """A page in the browser, and what went wrong on it.

    Attributes:
        page: playwright's; faults: console messages, errors and requests for anything but the file itself.
    """

    def __init__(self, browser, path, width=1200, scheme="light"):
        self.context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        self.page, self.faults = self.context.new_page(), []
        self.page.on("console", lambda message: self.faults.append(message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.faults.append("a dialog"), dialog.dismiss()))
        allowed = (path.as_uri(), "data:")
        self.page.on("request", lambda asked: asked.url.startswith(allowed) or self.faults.append(asked.url))
        self.page.goto(path.as_uri())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


@pytest.fixture()
def opened(browser):
    """A function: path, width, scheme -> the page, see `Opened`."""
    return lambda *args, **given: Opened(browser, *args, **given)
