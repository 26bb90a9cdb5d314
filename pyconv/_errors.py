"""The one exception of pyconv's own; every other error is a built-in one."""


class FormatError(ValueError):
    """A file that is not what it claims to be; the text names path, byte offset and field."""
