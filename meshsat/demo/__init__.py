"""`meshsat demo`: a throwaway upstream registry, a thin uplink and a site of nodes, on this machine alone.

What is shown is the real thing: every node is a `meshsat node` process, made a member by `meshsat init`,
`invite` and `join`, and asked through its API. Laws: it needs neither root nor a network, leaves no process
and no file behind however it ends, and what it reports is measured from outside the nodes.
"""
