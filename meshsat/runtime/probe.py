"""Asks a node's registry whether it is there, as runtimes would."""

import ssl

import httpx

TIMEOUT = 2.0
"""Seconds. A node on this host answers in milliseconds."""
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For http: httpx would load the machine's authorities, which takes 30 ms."""


def why_not(url: str) -> str | None:
    """None where a registry answers at `url`; else in words why none does."""
    verify = NO_TLS if url.startswith("http:") else ssl.create_default_context()
    verify.check_hostname = False  # whether it is there is the question, not who it is
    verify.verify_mode = ssl.CERT_NONE
    try:
        answer = httpx.get(f"{url}/v2/", timeout=TIMEOUT, verify=verify, trust_env=False)
    except httpx.TimeoutException:
        return f"does not answer within {TIMEOUT:g} s"
    except httpx.TransportError as fault:
        return f"does not answer ({fault or type(fault).__name__})"
    return (
        None if answer.status_code in (200, 401) else f"answers with {answer.status_code}: no registry does"
    )
