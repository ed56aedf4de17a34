"""The one exception of the lab."""


class LabError(Exception):
    """What failed, on what, and where its log is."""
