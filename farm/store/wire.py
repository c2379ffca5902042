# SPDX-License-Identifier: Apache-2.0
"""The words of the store's requests, which its service and its clients share.

    HEAD, GET  /v1/blobs/SHA256     the bytes, whole or from an offset (`Range`)
    HEAD       /v1/uploads/SHA256   how much of an upload of this worker has arrived: `Upload-Offset`
    PUT        /v1/blobs/SHA256     the bytes from `Upload-Offset` to `Upload-Length`
    HEAD, GET  /v1/records/RUN_ID   a record
    POST       /v1/records          a record, kept if it is the run's first: `{"written": true}`
    GET        /v1/ca               the authority's certificate, for who has its fingerprint
    POST       /v1/join             an invitation against credentials

All but the last two carry `Authorization: Bearer TOKEN`, and all but `ca` the client's version. A refusal is JSON:
`kind`, `message`, `hint`; also in a header, since an answer to HEAD has nothing else. The names of the two upload
headers are those of the tus protocol.
"""

from __future__ import annotations

PREFIX = "/v1"
VERSION_HEADER = "Inferfarm-Version"
OFFSET_HEADER = "Upload-Offset"
LENGTH_HEADER = "Upload-Length"
REFUSAL_HEADER = "Inferfarm-Refusal"

#: The largest record, JSON with all that a run says of itself; real ones have some 20 KB.
MAX_RECORD_BYTES = 8 << 20
MAX_JOIN_BYTES = 8 << 10

#: Kinds of refusal: which of the farm's errors the client raises.
USAGE, UNAVAILABLE, INTEGRITY = "usage", "unavailable", "integrity"
