# SPDX-License-Identifier: Apache-2.0
"""The commands. Each module has a main(); none is imported by another."""

import warnings

# NOTE: libraries of the last releases for Python 3.10 look for eventlet, which
# says so to whoever runs a command. We use none of it.
warnings.filterwarnings('ignore', r'\s*Eventlet is deprecated')
