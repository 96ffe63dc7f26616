# SPDX-License-Identifier: Apache-2.0
"""The HTTP side: paste factories, routing, requests, schemas, controller."""
