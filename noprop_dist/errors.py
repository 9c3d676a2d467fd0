"""The two errors that a user meets. Neither shows a secret that a URI carries."""

import errno

from noprop_dist.printable import printable, without_secrets

LONGEST = 2000
"""Characters of a message. A file may have a name, a header or a number that is longer than all that helps."""


class UserError(ValueError):
    """What the user gave cannot be used; the message says what, where and what is allowed.

    The command line prints it as one sentence and exits with code 2. It is one line, whatever names are in it.
    """

    def __str__(self) -> str:
        text = printable(without_secrets(super().__str__()))
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 200]} … {text[-200:]}"


class TrainingError(RuntimeError):
    """Training stopped for a reason inside a run (an error in a block, a lost actor).

    The message names the block and its real cause. The command line prints it and exits with code 1.
    """

    def __str__(self) -> str:
        return without_secrets(super().__str__())


def why(error: Exception, *, with_file: bool = False) -> str:
    """Why something failed, for people. Of an error of the operating system, without its number.

    Args:
        error: that was caught.
        with_file: name the file that it is about, where the sentence around it does not.
    """
    if not isinstance(error, OSError) or error.strerror is None or not str(error).startswith("[Errno"):
        return str(error)
    text = "there is no such file or folder" if error.errno == errno.ENOENT else error.strerror
    return f"{error.filename}: {text}" if with_file and error.filename else text
