# SPDX-License-Identifier: Apache-2.0
"""The commands. Each module has a main(); none is imported by another."""
