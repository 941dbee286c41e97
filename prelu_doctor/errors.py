"""The errors a user can meet: each says what was found, what was expected and what to do."""


class DoctorError(Exception):
    """Root of every error this program raises on purpose.

    Args:
        found: What was found, with the name of the thing it was found in.
        expected: What was expected instead.
        remedy: What the user can do about it.
    """

    def __init__(self, found: str, expected: str = "", remedy: str = "") -> None:
        super().__init__(found, expected, remedy)
        self.found = found
        self.expected = expected
        self.remedy = remedy

    def __str__(self) -> str:
        """The message as one paragraph: found, expected, remedy."""
        parts = [self.found, self.expected and f"expected: {self.expected}", self.remedy and f"try: {self.remedy}"]
        return "\n".join(part for part in parts if part)


class UsageError(DoctorError):
    """The options contradict each other, or miss something only the user knows."""


class CheckpointError(DoctorError):
    """A checkpoint cannot be read, is refused, or does not fit its architecture."""


class DataError(DoctorError):
    """The sample data cannot be read or does not fit the model."""


class ForwardError(DoctorError):
    """The model's own forward raised; the original error is the cause."""


class BrokenPromiseError(DoctorError):
    """A conversion or an export did not come out equal to the original: nothing is written, exit code 1."""
