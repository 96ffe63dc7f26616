# SPDX-License-Identifier: Apache-2.0
"""What is known of guests, chains and image files, and what is done there."""
