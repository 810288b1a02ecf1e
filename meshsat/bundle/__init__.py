"""Bundles: images in a file or on a stick, out of a registry and into one.

What is written is an OCI image layout (image-spec 1.1, image-layout.md), as a directory or as a tar, with
what meshsat adds in annotations, so that other tools read it as well. What is read is that of any tool,
docker's archives and skopeo's `dir:` too. Nothing here knows where the registry is: see `place`.
"""
