# SPDX-License-Identifier: Apache-2.0
"""The table of weaknesses W1 to W32, a test for each row and backend."""
