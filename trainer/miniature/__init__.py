# SPDX-License-Identifier: Apache-2.0
"""Small worlds to try LangBridge in where no pretrained parts can be had: for the demo and the reproduction."""
