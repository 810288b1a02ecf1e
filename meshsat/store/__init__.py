"""What a node keeps on its disk: blobs, blobs on their way, tags, images, pins.

`store.Store` is the way in; `layout.py` draws the disk as a tree. Laws: nothing is read from `blobs/` that
was not verified whole and made durable before it got its name there; no chunk is recorded before its bytes
are written; after `kill -9` at any instruction only what was in flight is missing.
"""
