"""The one kind of error that users are meant to meet."""


class InputError(ValueError):
    """Something that the user gave is wrong: a file, a parameter, a path.

    The message is one line that names the file or key and says what would be right. Stages and the command
    `frost` print it alone and exit with status 1; any other exception is a bug and keeps its traceback.
    """
