# SPDX-License-Identifier: Apache-2.0
"""The store over HTTPS, for workers without its directory: `farm store serve` on the controller. See `farm.store.wire`.

`access` keeps who may ask, `uploads` what has arrived in part, `handlers` answers requests, `server` is the process.
"""
