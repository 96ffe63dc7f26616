# SPDX-License-Identifier: Apache-2.0
"""How the filter in nova-api is configured, without a Nova.

What it does in one is in tests/nova.
"""

from __future__ import annotations

import pathlib

import pytest
from oslo_config import cfg

from nova_ext.api import nova


def test_a_wrong_value_ends_the_start_and_no_request(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / 'nova.conf'
    path.write_text('[nova_ext_nova]\nrefuse_paths = perhaps\n')
    with pytest.raises(cfg.Error, match=r'\[nova_ext_nova\] refuse_paths'):
        nova._configure(cfg.ConfigOpts(), str(path), compute_api='libvirt')
