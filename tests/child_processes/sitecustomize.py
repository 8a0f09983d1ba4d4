# SPDX-License-Identifier: Apache-2.0
"""What Python runs as a child process of the tests starts: collecting garbage rarely makes imports a sixth faster."""

import gc


gc.set_threshold(10_000)
