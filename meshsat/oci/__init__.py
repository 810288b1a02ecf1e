"""The values of the OCI specifications: digest, descriptor, platform, manifest, reference.

Pure: no input or output, no clock. Text and bytes from outside are parsed once, by the `*_untrusted`
functions, which end in a value or in `InvalidInputError`; deeper in the house nobody looks at JSON again.
Unknown fields are kept. A manifest is its bytes: they are never serialised anew, so its digest is always that
of what was received.
"""
