# SPDX-License-Identifier: Apache-2.0
"""The crash matrix: who dies when, and what becomes of the data."""
