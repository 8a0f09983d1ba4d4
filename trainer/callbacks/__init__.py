# SPDX-License-Identifier: Apache-2.0
"""What happens beside the training steps."""
