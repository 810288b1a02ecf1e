"""The command line: one file a verb, each with one function `run`.

A verb imports what it needs when it runs, not when `meshsat` starts: `meshsat status` must answer before
somebody wonders whether it hangs, and py-libp2p alone takes longer to import than that.
"""
