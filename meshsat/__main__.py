"""`python -m meshsat`: the same as the command `meshsat`."""

from meshsat.cli.main import main

if __name__ == "__main__":
    main()
