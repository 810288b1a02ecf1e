"""htpasswd files for tests: cheap bcrypt hashes, a mode that passes."""

from pathlib import Path

import bcrypt

COST = 4


def hashed(password: str, cost: int = COST) -> str:
    """As Apache's `htpasswd -B` writes it."""
    return "$2y$" + bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()[4:]


def write_htpasswd(path: Path, users: dict[str, str]) -> Path:
    """`users`: name -> password."""
    path.write_text("".join(f"{name}:{hashed(password)}\n" for name, password in users.items()))
    path.chmod(0o640)
    return path
