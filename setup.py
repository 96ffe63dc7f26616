# SPDX-License-Identifier: Apache-2.0
"""Packaging entry point; everything declarative is in setup.cfg."""

import setuptools

setuptools.setup()
