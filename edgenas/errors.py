"""The error tree. Each says what was expected, what arrived and, as `hint`, what to do next.

EdgenasError          exit code 1: something failed that is not the user's input
├── InputError        exit code 2: usage, bad input, or a budget that can't be met at all
│   └── InfeasibleBudget
├── TargetError       the device or its runtime did not answer as it should
│   └── DeviceAway    it was there and can't be reached any more: nothing else will succeed either
└── GateError         a check of our own failed (parity, accuracy, legality)
"""


class EdgenasError(Exception):
    """`message` is one sentence; `hint` is the next thing to do."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class InputError(EdgenasError):
    """What the user gave can't be used."""

    exit_code = 2


class InfeasibleBudget(InputError):
    """No network of the space fits the budget; the closest that was measured is in the message."""


class TargetError(EdgenasError):
    """The place where models run failed: a dead process, a time limit, a runtime that refuses a file."""


class DeviceAway(TargetError):
    """The connection broke and could not be made again."""


class GateError(EdgenasError):
    """A result did not pass the check that it has to pass before it is shipped."""
