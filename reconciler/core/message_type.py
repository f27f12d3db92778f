"""Which message types are the hub's own: such messages go to the hub or come from it, nowhere else. Pure."""

RESERVED = ("agent.", "task.", "delegation.", "capability.", "policy.", "security.", "hub.")


def is_reserved(type_: str) -> bool:
    """Whether a message type belongs to the hub, which alone says what its payload looks like."""
    return type_.startswith(RESERVED)
