# SPDX-License-Identifier: Apache-2.0

# The environment variable that says of which moment a build is.
EPOCH = 'SOURCE_DATE_EPOCH'
