# SPDX-License-Identifier: Apache-2.0
"""What a training run will take, told from configurations alone."""
