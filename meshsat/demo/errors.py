"""What goes wrong in the demo, with what the culprit logged last."""

from meshsat.errors import MeshsatError


class DemoError(MeshsatError):
    """The demo cannot go on."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log
        """The end of the log of the process at fault; "" where there is none."""
