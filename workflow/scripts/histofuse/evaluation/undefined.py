"""The one exception of the metrics: these data cannot answer the question."""


class Undefined(ValueError):
    """A metric has no value on these data (no event, an absent class, …); the message is the reason, for a
    table's note.
    """
