# SPDX-License-Identifier: Apache-2.0
"""The compute abstraction and its backends."""
