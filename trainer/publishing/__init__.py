# SPDX-License-Identifier: Apache-2.0
"""Training records and pushes to the Hub."""
