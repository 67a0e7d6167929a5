"""A headless Chromium, Debian's, and axe-core: to look at pages as people do, and as those who cannot see them."""

from tests.lab.browser.installation import axe, install, missing, program

__all__ = ["axe", "install", "missing", "program"]
