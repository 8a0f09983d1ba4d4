# SPDX-License-Identifier: Apache-2.0
"""What the demos, the reproduction, the matrix, the benchmarks and the trials of other programs are made of."""
