"""The distribution specification (1.1.1, and what its development version adds), one test a MUST or SHOULD.

Written from the specification's text, not from the code. What is asked is a real node over a real socket;
`MESHSAT_CONFORMANCE_REGISTRY=HOST:PORT` asks any other registry (plain HTTP, no credentials) the same, but for the
tests that are about a node's own settings. Each docstring names the section, or the rule of RFC 9110/9112.
"""
