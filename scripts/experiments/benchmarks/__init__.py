# SPDX-License-Identifier: Apache-2.0
"""What training costs, one question a file."""
