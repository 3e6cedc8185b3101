"""refused.py: what the server can refuse; the texts are for the user."""


class MountError(Exception):
    """The mount could not be made."""


class ControlError(Exception):
    """A request on the control socket that is refused."""
