"""HTTP on trio: the server that runs our ASGI applications, and RFC 9110's ranges and conditions."""
