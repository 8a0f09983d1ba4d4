# SPDX-License-Identifier: Apache-2.0
"""Where the browser is that tests of pages drive."""

import shutil

import pytest


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: .ci/run installs it")
