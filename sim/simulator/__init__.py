"""A mesh in virtual time: the machines of `meshsat.protocol`, unchanged, on a network of arithmetic."""
