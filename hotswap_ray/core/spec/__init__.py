"""Everything that an operator may write, frozen and bounded."""
