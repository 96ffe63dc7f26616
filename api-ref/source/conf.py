# SPDX-License-Identifier: Apache-2.0
"""How Sphinx builds the API reference; what it says is in the other files.

Nothing here asks the network, a git remote or an installed nova_ext: the
reference builds from a plain tarball.
"""

from __future__ import annotations

import logging

extensions = ['os_api_ref', 'openstackdocstheme']

project = 'nova_ext API Reference'
copyright = 'nova_ext contributors'
language = 'en'
root_doc = 'index'
# NOTE: the .inc files are parts of index.rst, not pages.
source_suffix = {'.rst': 'restructuredtext'}

templates_path = ['_templates']
html_static_path = ['_static']
html_css_files = ['nova_ext.css']
html_theme = 'openstackdocs'
html_theme_options = {
    'sidebar_mode': 'toc',
    'sidebar_dropdown': 'api_ref',
    # NOTE: readers of this reference are not reported to anybody, and a
    # badge of docs.openstack.org says nothing of this project.
    'analytics_tracking_code': '',
    'display_badge': False,
}
html_copy_source = False
html_show_sourcelink = False
html_use_index = False
pygments_style = 'native'

# NOTE: empty, so that the theme makes no links to a forge or a bug tracker
# that does not know this project. `os_api_ref_*_microversion` are left out
# too: the selector that they add does nothing under this theme.
openstackdocs_repo_name = ''
openstackdocs_auto_name = False
openstackdocs_auto_version = False


def _not_about_git(record: logging.LogRecord) -> bool:
    return 'cannot get gitsha' not in record.getMessage()


# NOTE: the theme warns where there is no git checkout. With warnings as
# errors that would make a build from a tarball fail.
logging.getLogger('sphinx.openstackdocstheme.ext').addFilter(_not_about_git)
